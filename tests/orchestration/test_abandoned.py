"""Which of the runs that are due a run takes over, against a real server and its scheduler."""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.states import Pending
from prefect_api import Api, calling
from toy import wait_until

from pipeline.orchestration import abandoned
from pipeline.orchestration.abandoned import cancel_overdue_runs
from pipeline.orchestration.flow import run_graph


def due_runs(client: SyncPrefectClient) -> list[FlowRun]:
    due = {"expected_start_time": {"before_": datetime.now(UTC)}}
    return client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(due))


def test_a_run_takes_over_what_is_due_but_no_run_whose_process_lives(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has taken three of the runs that are due, and was killed before it started one."""
    every = IntervalSchedule(interval=timedelta(seconds=1))
    with calling(api), get_client(sync_client=True) as client:
        deployment = RunnerDeployment.from_flow(run_graph, "scheduled", schedules=[every]).apply()
        assert isinstance(deployment, UUID)
        wait_until(lambda: len(due_runs(client)) >= 5)
        client.pause_deployment(deployment)
        here, scheduled, started, recent, lost = due_runs(client)[:5]
        for taken in (started, recent, lost):
            client.set_flow_run_state(taken.id, Pending())

        cancel_overdue_runs(client, here)
        states = {run.id: run.state_name for run in due_runs(client)}
        assert states[lost.id] == states[recent.id] == "Pending", "it may still start them"

        monkeypatch.setattr(abandoned, "START_TIMEOUT", timedelta())
        variables = os.environ | {"PREFECT__FLOW_RUN_ID": str(started.id)}
        with subprocess.Popen(["sleep", "600"], env=variables) as process:
            cancel_overdue_runs(client, here)
            process.kill()
        runs = {run.id: run for run in due_runs(client)}
        assert runs[started.id].state_name == "Pending"
        assert runs[scheduled.id].state_name == runs[lost.id].state_name == "Cancelled"
        state = runs[lost.id].state
        assert state and state.message == f"missed; done by {here.name}"
