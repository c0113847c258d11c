"""Time and memory on more data: ten times the data set's images, and up to 100,000 own images.

Run: python -m benchmarks.growth. The images of the data set repeat. Each stage runs in its own
process, in a temporary folder. Its imports do not count. Train runs one epoch. Own images are the
data set's, moved by a pixel or more; `mnist add` runs in a clone, as a command.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from pipeline.mnist.idx import DATASET_FILE, RAW_FILES, read_raw
from pipeline.paths import RAW

TIMES = 10
OWN_COUNTS = (1_000, 10_000, 100_000)


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


def write_own(folder: Path, count: int) -> None:
    """Write images into folders of their classes, no two of them equal."""
    digits = read_raw(RAW, "train")
    for label in set(digits.labels.tolist()):
        (folder / str(label)).mkdir(parents=True)
    for number in range(count):
        moves, row = divmod(number, len(digits.labels))
        moved = np.roll(digits.images[row, 0], moves + 1, axis=1)
        Image.fromarray(moved).save(folder / str(digits.labels[row]) / f"{number}.png")


def measure_add(clone: Path, pictures: Path) -> dict[str, float]:
    """Return the seconds of the command, and the peak memory of its largest process in bytes."""
    start = perf_counter()
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    )
    command = [sys.executable, "-m", "pipeline", "add", str(pictures), "--batch", "many"]
    output = subprocess.check_output(
        [sys.executable, "-c", program, *command], cwd=clone, text=True
    )
    return {"seconds": perf_counter() - start, "bytes": float(output.splitlines()[-1])}


def grow_own() -> None:
    """Print what it costs to add and to preprocess own images."""
    for count in OWN_COUNTS:
        with tempfile.TemporaryDirectory() as name:
            clone, pictures = Path(name) / "clone", Path(name) / "pictures"
            subprocess.run(["git", "clone", "--quiet", ".", str(clone)], check=True)
            shutil.copytree(RAW, clone / RAW)
            write_own(pictures, count)
            added, preprocessed = measure_add(clone, pictures), measure(clone, "preprocess")
            words = [
                f"{step} {figures['seconds']:.1f} s, {figures['bytes'] / 2**20:.0f} MiB"
                for step, figures in (("add", added), ("preprocess", preprocessed))
            ]
            print(f"{count:,} own images: {'; '.join(words)}", flush=True)


def main() -> None:
    if len(sys.argv) == 2:
        print(json.dumps(run_stage(sys.argv[1])))
        return
    grow_data_set()
    grow_own()


def grow_data_set() -> None:
    """Print what it costs to preprocess and train on ten times the data set's images."""
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
