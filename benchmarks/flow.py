"""What the flow adds to `dvc repro`, against a Prefect server that runs already: with nothing to
do, and on a full run.

Run: python -m benchmarks.flow, where everything is up to date. It works in a clone of this
repository, with the raw files at hand, because a download would take now this and now that long.
For a full run the clone forgets all that ran. Both ways are run in turn, either first every other
time, and the median counts.
"""

import os
import shutil
import socket
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.overhead import seconds
from pipeline.paths import RAW

IDLE_ROUNDS, FULL_ROUNDS = 7, 5
FLOW = ("python", "-m", "pipeline", "run")
REPRO = ("dvc", "repro")


def compare(
    title: str, rounds: int, folder: Path, prepare: Callable[[], None], **variables: str
) -> None:
    times: dict[tuple[str, ...], list[float]] = {FLOW: [], REPRO: []}
    for number in range(rounds):
        for way in (FLOW, REPRO) if number % 2 else (REPRO, FLOW):
            prepare()
            times[way].append(seconds(folder, *way, **variables))
    pairs = list(zip(times[FLOW], times[REPRO], strict=True))
    more = [flow - repro for flow, repro in pairs]
    share = statistics.median(100 * (flow / repro - 1) for flow, repro in pairs)
    flow, repro = (statistics.median(times[way]) for way in (FLOW, REPRO))
    spread = f"{statistics.median(more):.2f} s more ({min(more):.2f} to {max(more):.2f})"
    print(f"{title}: {flow:.2f} s, dvc repro {repro:.2f} s: {spread}, {share:.1f} %", flush=True)


def main() -> None:
    from pipeline.orchestration.server import server_at

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
    with tempfile.TemporaryDirectory() as name:
        home, clone = f"{name}/prefect", Path(name) / "clone"
        subprocess.run(["git", "clone", "--quiet", Path.cwd(), clone], check=True)
        shutil.copytree(RAW, clone / "data" / "source")

        def forget() -> None:
            shutil.rmtree(clone / ".dvc" / "cache", ignore_errors=True)
            (clone / "dvc.lock").unlink(missing_ok=True)

        os.environ["PREFECT_HOME"] = home
        with server_at(url):
            variables = {
                "PREFECT_API_URL": url,
                "PREFECT_HOME": home,
                "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR",
            }
            seconds(clone, *FLOW, **variables)
            compare("nothing to do", IDLE_ROUNDS, clone, lambda: None, **variables)
            compare("everything", FULL_ROUNDS, clone, forget, **variables)


if __name__ == "__main__":
    main()
