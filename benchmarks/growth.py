"""Time and memory of preprocess and train on ten times the images, which repeat the data.

Run: python -m benchmarks.growth. Each stage runs in its own process, in a temporary folder. Its
imports do not count. Train runs one epoch.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from time import perf_counter

from ruamel.yaml import YAML

from pipeline.mnist.idx import DATASET_FILE, RAW_FILES
from pipeline.paths import RAW

TIMES = 10


def repeat_raw(source: Path, target: Path, times: int) -> None:
    """Copy the IDX files, with their items repeated and the count in the header multiplied."""
    target.mkdir(parents=True)
    (target / DATASET_FILE).write_bytes((source / DATASET_FILE).read_bytes())
    for names in RAW_FILES.values():
        for name, header in zip(names, (16, 8), strict=True):
            content = (source / name).read_bytes()
            count = int.from_bytes(content[4:8], "big") * times
            with (target / name).open("wb") as file:
                file.write(content[:4] + count.to_bytes(4, "big") + content[8:header])
                for _ in range(times):
                    file.write(content[header:])


def run_stage(name: str) -> dict[str, float]:
    """Return the seconds of the stage's main, and the process's peak memory in bytes."""
    stage = import_module(f"pipeline.stages.{name}")
    start = perf_counter()
    stage.main()
    return {
        "seconds": perf_counter() - start,
        "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def measure(folder: Path, stage: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.growth", stage]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    result = subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    figures: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return figures


def main() -> None:
    if len(sys.argv) == 2:
        print(json.dumps(run_stage(sys.argv[1])))
        return
    with tempfile.TemporaryDirectory() as name:
        folders = {times: Path(name) / str(times) for times in (1, TIMES)}
        yaml = YAML()
        params = yaml.load(Path("params.yaml").read_text(encoding="utf-8"))
        params["train"]["epochs"] = 1
        for times, folder in folders.items():
            repeat_raw(RAW, folder / RAW, times)
            with (folder / "params.yaml").open("w", encoding="utf-8") as file:
                yaml.dump(params, file)
        for stage, reads in (("preprocess", "data/raw"), ("train", "data/tensors")):
            figures = {times: measure(folder, stage) for times, folder in folders.items()}
            sizes = {
                times: sum(path.stat().st_size for path in (folder / reads).iterdir())
                for times, folder in folders.items()
            }
            seconds = figures[1]["seconds"], figures[TIMES]["seconds"]
            memory = (figures[TIMES]["bytes"] - figures[1]["bytes"]) / (sizes[TIMES] - sizes[1])
            print(
                f"{stage}: {seconds[0]:.2f} s, on {TIMES} times the images {seconds[1]:.2f} s, "
                f"{seconds[1] / seconds[0]:.1f} times as long; peak memory grows by {memory:.2f}"
                " bytes for each added",
                flush=True,
            )


if __name__ == "__main__":
    main()
