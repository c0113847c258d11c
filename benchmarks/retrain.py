"""What isolation, judging and publishing add with nothing to train, against a Prefect server that
runs already.

Run: python -m benchmarks.retrain, where everything is up to date. It works on a clone of this
repository that shares its cache, first publishing what is there, then finding it unchanged; the
same flow with nothing but its stages is `python -m pipeline run`. The median of the rounds counts.
"""

import os
import socket
import statistics
import subprocess
import tempfile
from pathlib import Path

from benchmarks.overhead import seconds

ROUNDS = 7
RUN = ("python", "-m", "pipeline", "run")
RETRAIN = ("python", "-m", "pipeline", "retrain")
GATE = ("--set", "gate.minimum=0")  # whatever the model is


def main() -> None:
    from pipeline.orchestration.server import server_at
    from pipeline.repository.dvc_worker import DvcWorker

    here = Path.cwd()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
    with tempfile.TemporaryDirectory() as folder, DvcWorker(here) as dvc:
        os.environ["PREFECT_HOME"] = f"{folder}/prefect"
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(here), str(clone)], check=True)
        with DvcWorker(clone) as dvc_of_clone:
            dvc_of_clone.run("config", "--local", "cache.dir", dvc.run("cache", "dir").strip())
            dvc_of_clone.run("checkout", "--quiet")
        with server_at(url):
            variables = {
                "PREFECT_API_URL": url,
                "PREFECT_HOME": f"{folder}/prefect",
                "PREFECT_LOGGING_LEVEL": "ERROR",
            }
            seconds(clone, *RUN, **variables)
            rounds = [measure(clone, **variables) for _ in range(ROUNDS)]
    run, published, unchanged = (statistics.median(column) for column in zip(*rounds, strict=True))
    for name, taken in (("Published", published), ("Unchanged", unchanged)):
        print(f"{name}: {taken:.2f} s, the flow alone {run:.2f} s: {taken - run:.2f} s more")


def measure(clone: Path, **variables: str) -> tuple[float, float, float]:
    """The flow with nothing to do; a retraining that publishes what is there; one that finds it
    published.
    """
    for ref in subprocess.check_output(
        ["git", "for-each-ref", "--format=%(refname)"], cwd=clone, text=True
    ).split():
        if "mnist-cnn" in ref or ref == "refs/heads/champion":
            subprocess.run(["git", "update-ref", "-d", ref], cwd=clone, check=True)
    return (
        seconds(clone, *RUN, **variables),
        seconds(clone, *RETRAIN, *GATE, **variables),
        seconds(clone, *RETRAIN, **variables),
    )


if __name__ == "__main__":
    main()
