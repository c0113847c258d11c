"""What happens when data are added, against a real server."""

import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import RunnerDeployment
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_api import Api, calling, deploy_to_pool

from pipeline.orchestration.abandoned import cancel_overdue_runs
from pipeline.orchestration.automations import run_when_data_are_added
from pipeline.orchestration.events import announce_data
from pipeline.orchestration.flow import run_graph


@pytest.fixture
def client(api: Api) -> Iterator[SyncPrefectClient]:
    with calling(api), get_client(sync_client=True) as client:
        yield client


def runs(api: Api, count: int) -> list[FlowRun]:
    """The server's runs, once there are as many, the first to be created first."""
    found = api.wait_for(lambda: all_runs if len(all_runs := api.runs()) >= count else [])
    return sorted(map(FlowRun.model_validate, found), key=lambda run: str(run.created))


def test_data_added_in_the_folder_start_a_run_and_its_like_are_merged(
    client: SyncPrefectClient, api: Api, tmp_path: Path
) -> None:
    """Not data of another folder. What a person has started meanwhile is not merged."""
    deployment = RunnerDeployment.from_flow(run_graph, "scheduled").apply()
    assert isinstance(deployment, UUID)
    run_when_data_are_added(client, tmp_path, "mnist", deployment)
    run_when_data_are_added(client, tmp_path, "mnist", deployment)  # as the next serve does
    assert announce_data(tmp_path / "another", "a", 3)
    for batch in ("a", "b"):
        assert announce_data(tmp_path, batch, 3)
    first, second = runs(api, 2)
    assert {first.deployment_id, second.deployment_id} == {deployment}
    person = client.create_flow_run_from_deployment(deployment)
    assert len(runs(api, 3)) == 3

    cancel_overdue_runs(client, first)
    states = {run.id: (run.state_name, run.state.message) for run in runs(api, 3) if run.state}
    assert states[first.id][0] == states[person.id][0] == "Scheduled"
    assert states[second.id] == ("Cancelled", f"missed; done by {first.name}")


@pytest.mark.slow
def test_data_added_start_a_run_of_a_pool_too(api: Api, tmp_path: Path) -> None:
    """As prefect.yaml deploys it."""
    folder, _ = deploy_to_pool(tmp_path / "pool", api, interval=3600)
    with calling(api):
        assert announce_data(tmp_path, "another", 3)
        assert announce_data(folder, "batch", 3)
    [run] = api.wait_for(lambda: [run for run in api.runs() if not run["auto_scheduled"]])
    assert run["created_by"]["type"] == "AUTOMATION"
    assert run["parameters"]["update"] is True


def test_without_a_server_nothing_is_said_and_nothing_is_tried_again(tmp_path: Path) -> None:
    """One connection is made, which this listener closes; and one that is refused."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        closer = Thread(target=lambda: listener.accept()[0].close())
        closer.start()
        with temporary_settings({PREFECT_API_URL: url}):
            assert not announce_data(tmp_path, "batch", 3)
            closer.join()
            listener.settimeout(0)
            with pytest.raises(BlockingIOError):
                listener.accept()
    with temporary_settings({PREFECT_API_URL: url}):
        assert not announce_data(tmp_path, "batch", 3)
