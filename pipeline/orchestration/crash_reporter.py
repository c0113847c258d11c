"""The small program that reports a flow run whose process died without doing so itself.

Usage: python -m pipeline.orchestration.crash_reporter RECORD. RECORD is the file that the run's
process keeps locked (abandoned.py). The program waits for that lock, which the kernel frees when
the process is gone. If the record is still there then, the run has no final state on the server.
Prefect is imported only in that case, so that the program that waits is small.
"""

import fcntl
import sys
import time
from pathlib import Path

RETRY = 5.0  # seconds
PATIENCE = 600.0  # seconds; the next run in the folder does what is left then


def wait_for_process(record: Path) -> None:
    """Return when the process that holds the record is gone."""
    try:
        with record.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
    except FileNotFoundError:  # it has ended already
        return


def report(root: Path) -> None:
    """End the abandoned runs of the folder, as soon as the server answers."""
    import httpx
    from prefect.client.orchestration import get_client

    from pipeline.orchestration.abandoned import end_abandoned_runs

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with get_client(sync_client=True) as client:
                return end_abandoned_runs(client, root)
        except httpx.HTTPError:
            time.sleep(RETRY)


if __name__ == "__main__":
    record = Path(sys.argv[1])
    wait_for_process(record)
    if record.exists():
        report(Path.cwd())
