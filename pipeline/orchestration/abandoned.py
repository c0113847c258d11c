"""Flow runs that no living process holds any more: how they are found and ended.

While it lives, the process of a run holds the kernel's lock on a file of the run's own, its record.
The kernel frees the lock when the process dies, however it dies. So a record that can be locked
belongs to a run whose process is gone; the run has crashed unless it has a final state.
"""

import atexit
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Crashed

from pipeline.repository.processes import subprocess_environment

RECORDS = Path(".dvc") / "tmp" / "flow-runs"
START_TIMEOUT = timedelta(minutes=1)  # for a run's process to appear, once its run is Pending
_held: dict[Path, tuple[int, FlowRun]] = {}  # this process's records, their open files


def hold_record(root: Path, run: FlowRun) -> Path:
    """Hold the run's record until this process ends, or the run has its final state."""
    drop_records()
    if not _held:
        atexit.register(drop_records)
    record = root / RECORDS / str(run.id)
    record.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(record, os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    _held[record] = file, run
    return record


def drop_records() -> None:
    """Remove the records of this process's runs that the server knows to have ended."""
    for record, (file, run) in list(_held.items()):
        if run.state and run.state.is_final():
            record.unlink(missing_ok=True)
            os.close(file)
            del _held[record]


def start_crash_reporter(record: Path) -> None:
    """Start the small program that reports the run if this process dies without doing so."""
    variables = subprocess_environment() | {"PREFECT_API_URL": PREFECT_API_URL.value() or ""}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.orchestration.crash_reporter", str(record)],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what kills this process's group must not kill it
    )
    process.returncode = 0  # nobody waits for it


def end_abandoned_runs(client: SyncPrefectClient, root: Path) -> None:
    """End the runs of this folder whose process is gone, and remove their records."""
    for record in (root / RECORDS).glob("*"):
        with lock_abandoned(record) as is_abandoned:
            if is_abandoned:
                with suppress(ObjectNotFound):  # deleted, or of another server
                    end_run(client, client.read_flow_run(UUID(record.name)))
                record.unlink(missing_ok=True)


@contextmanager
def lock_abandoned(record: Path) -> Iterator[bool]:
    """Lock a record; yield whether that was possible, so that no living process holds it."""
    try:
        with record.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
    except (FileNotFoundError, BlockingIOError):
        yield False


def end_run(client: SyncPrefectClient, run: FlowRun) -> None:
    """Give a run whose process is gone a final state, unless it has one."""
    if run.state and not run.state.is_final():
        end = Cancelled if run.state.type is StateType.CANCELLING else Crashed
        client.set_flow_run_state(run.id, end(message="its process is gone"), force=True)


def cancel_overdue_runs(client: SyncPrefectClient, run: FlowRun) -> None:
    """Cancel the runs of the run's deployment that are due by now: it does their work.

    They are those that a schedule or an automation made; what a person started is left.
    Among them are those that a worker was about to start when it was killed, which stay Pending.
    """
    if not run.deployment_id:
        return
    overdue = FlowRunFilter.model_validate(
        {
            "deployment_id": {"any_": [str(run.deployment_id)]},
            "state": {"type": {"any_": ["SCHEDULED", "PENDING"]}},
            "expected_start_time": {"before_": datetime.now(UTC)},
        }
    )
    oldest_first = FlowRunSort.EXPECTED_START_TIME_ASC
    for missed in client.read_flow_runs(flow_run_filter=overdue, sort=oldest_first, limit=200):
        if is_automatic(missed) and missed.id != run.id and not is_about_to_start(missed):
            message = f"missed; done by {run.name}"
            client.set_flow_run_state(missed.id, Cancelled(message=message))


def is_automatic(run: FlowRun) -> bool:
    """Whether a schedule or an automation made the run, and no person."""
    made_by = run.created_by.type if run.created_by else None
    return run.auto_scheduled or made_by == "AUTOMATION"


def is_about_to_start(run: FlowRun) -> bool:
    """Whether a worker has taken the run, and its process may live."""
    if not run.state or run.state.type is not StateType.PENDING:
        return False
    is_recent = datetime.now(UTC) - run.state.timestamp < START_TIMEOUT
    return is_recent or has_process(run)


def has_process(run: FlowRun) -> bool:
    """Whether a process of this machine was started for the run, as Prefect's workers do it."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("PREFECT__FLOW_RUN_ID") == str(run.id):
                return True
    return False
