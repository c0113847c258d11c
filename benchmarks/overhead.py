"""What the workflow adds: `dvc repro` with nothing to do, and the stages beyond their imports and
their peak memory.

Run: python -m benchmarks.overhead, where everything is up to date. Pairs are run in turn and the
median ratio counts.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

from ruamel.yaml import YAML

ROUNDS = 7
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def seconds(folder: Path, *command: str, **variables: str) -> float:
    start = perf_counter()
    subprocess.run(
        command, cwd=folder, env=ENVIRONMENT | variables, check=True, stdout=subprocess.DEVNULL
    )
    return perf_counter() - start


def peak_memory(folder: Path, *command: str) -> int:
    """Bytes."""
    process = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    _, process.returncode, usage = os.wait4(process.pid, 0)
    return usage.ru_maxrss * 1024


def compare(title: str, ours: Callable[[], float], base: Callable[[], float]) -> None:
    pairs = [(ours(), base()) for _ in range(ROUNDS)]
    ratio = statistics.median(a / b for a, b in pairs)
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{title}: {a:.2f} s / {b:.2f} s = {ratio:.2f}", flush=True)


def make_empty_graph(folder: Path) -> None:
    """Five stages in a row, each an empty command with one file in and one out."""
    stages = {
        f"stage{number}": {
            "cmd": f"touch {number}",
            "deps": [str(number - 1)],
            "outs": [str(number)],
        }
        for number in range(1, 6)
    }
    (folder / "0").touch()
    with (folder / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML().dump({"stages": stages}, file)
    for command in (
        "git init --quiet",
        "dvc init --quiet",
        "dvc config core.analytics false",
        "dvc repro --quiet",
    ):
        subprocess.run(
            command.split(), cwd=folder, env=ENVIRONMENT, check=True, stderr=subprocess.DEVNULL
        )


def main() -> None:
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        make_empty_graph(Path(name))
        compare(
            "dvc repro with nothing to do / the same on five empty commands",
            lambda: seconds(here, "dvc", "repro"),
            lambda: seconds(Path(name), "dvc", "repro"),
        )
    for stage in ("evaluate", "report"):
        module = f"pipeline.stages.{stage}"
        compare(
            f"{stage} / its imports",
            partial(seconds, here, "python", "-m", module),
            partial(seconds, here, "python", "-c", f"import {module}"),
        )
        print(
            f"{stage}: {peak_memory(here, 'python', '-m', module) / 2**20:.0f} MiB of memory at"
            " most",
            flush=True,
        )


if __name__ == "__main__":
    main()
