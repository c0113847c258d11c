"""Two runs of one deployment in one folder, in real processes against a real server."""

import subprocess
import sys
from pathlib import Path
from uuid import UUID

from helpers import ROOT
from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect_api import Api, calling, message
from toy import STAY, WAIT, make_workspace, wait_for_pids

from pipeline.orchestration.flow import run_graph
from pipeline.repository.processes import subprocess_environment


def test_a_second_run_of_a_deployment_is_skipped_and_names_the_first(
    tmp_path: Path, api: Api
) -> None:
    """As a worker starts them if it is not told to run one at a time."""
    folder = make_workspace(tmp_path / "shared", {"only": STAY})
    (folder / "pipeline").symlink_to(ROOT / "pipeline")  # where the deployment has its flow
    with calling(api), get_client(sync_client=True) as client:
        deployment = RunnerDeployment.from_flow(run_graph, "pool").apply()
        assert isinstance(deployment, UUID)
        runs = [client.create_flow_run_from_deployment(deployment) for _ in range(2)]
    variables = subprocess_environment() | {"PREFECT_API_URL": api.url}
    processes = []
    for run in runs:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "prefect.engine", str(run.id)],
                cwd=folder,
                env=variables,
                stderr=subprocess.DEVNULL,
            )
        )
        wait_for_pids(folder)
    assert processes[1].wait(timeout=WAIT) == 0
    first, second = (api.runs(id={"any_": [str(run.id)]})[0] for run in runs)
    assert (first["state"]["name"], second["state"]["name"]) == ("Running", "Skipped")
    holder = f"flow run {first['name']} (process {processes[0].pid}, since "
    assert message(second).startswith(holder)
    assert message(second).endswith(" is at work on this deployment")
    (folder / "go").touch()
    assert processes[0].wait() == 0
    assert api.ended(first)["state"]["name"] == "Completed"
