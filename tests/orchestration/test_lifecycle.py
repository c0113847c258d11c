"""Two runs of one deployment in one folder, in real processes against a real server."""

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from uuid import UUID

from helpers import ROOT
from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect_api import Api, calling, message
from toy import STAY, WAIT, make_workspace, wait_for_pids

from pipeline.orchestration import lifecycle
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


def hold_often(lock: Path) -> int:
    """Hold a lock again and again; return how often nobody else held it."""
    lifecycle.note_holder = lambda path: None  # no run here
    count = 0
    for _ in range(500):
        try:
            with lifecycle.hold_or_skip(lock, "works"):
                alone = lock.with_suffix(".alone")
                alone.mkdir()  # fails if another holds it
                alone.rmdir()
                count += 1
        except lifecycle.SkippedRunError:
            pass
    return count


def test_a_lock_that_is_removed_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        counts = list(pool.map(hold_often, [tmp_path / "a.lock"] * 4))
    assert all(counts)
    assert list(tmp_path.iterdir()) == []
