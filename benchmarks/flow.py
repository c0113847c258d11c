"""What the flow adds to `dvc repro`, against a Prefect server that runs already: with nothing to do, and on a full run.

Run: python -m benchmarks.flow, where everything is up to date. Pairs are run in turn and the median counts.
"""

import os
import socket
import statistics
import tempfile
from pathlib import Path

from benchmarks.overhead import seconds

IDLE_ROUNDS, FULL_ROUNDS = 7, 2
FLOW = ("python", "-m", "pipeline", "run")
REPRO = ("dvc", "repro")


def main() -> None:
    from pipeline.serve import server
    from pipeline.supervisor import Lifeline

    here = Path.cwd()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
    with tempfile.TemporaryDirectory() as home, Lifeline() as lifeline:
        os.environ |= {"PREFECT_HOME": home, "PREFECT_LOGGING_TO_CONSOLE": "0"}
        with server(url, lifeline):
            variables = {"PREFECT_API_URL": url}
            seconds(here, *FLOW, **variables)
            pairs = [(seconds(here, *FLOW, **variables), seconds(here, *REPRO)) for _ in range(IDLE_ROUNDS)]
            more = statistics.median(flow - repro for flow, repro in pairs)
            flow, repro = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"nothing to do: {flow:.2f} s, dvc repro {repro:.2f} s: {more:.2f} s more", flush=True)
            pairs = [
                (seconds(here, *FLOW, "--force", **variables), seconds(here, *REPRO, "--force"))
                for _ in range(FULL_ROUNDS)
            ]
            ratio = statistics.median(flow / repro for flow, repro in pairs)
            flow, repro = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(
                f"everything: {flow:.1f} s, dvc repro --force {repro:.1f} s: {100 * (ratio - 1):.1f} % more", flush=True
            )


if __name__ == "__main__":
    main()
