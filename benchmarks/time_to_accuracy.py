"""Seconds to the notebook's test accuracy of 99.11 %, compared with the notebook's five epochs.

Run: python -m benchmarks.time_to_accuracy (seven minutes). For each of five seeds, and each in its
own process, the notebook's loop runs, then the recipe of quick_recipe.txt beside this file, for
less than half an epoch. Training and validation count; imports, reading the data and the test split
do not.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import torch

from benchmarks import notebook
from pipeline.mnist.device import keep_freed_memory, make_deterministic
from pipeline.mnist.inference import load_to_device, predict
from pipeline.mnist.model import build_network
from pipeline.mnist.training import TrainingState, fit
from pipeline.params import PARAMS_FILE, parse_yaml, validate
from pipeline.paths import RAW, TEST, TRAIN, VALIDATION
from pipeline.release.overrides import apply_overrides, parse_overrides
from pipeline.stages.train import TrainParams

SEEDS = (1, 2, 3, 4, 5)
TARGET = 0.9911
OPTIONS = Path(__file__).with_name("quick_recipe.txt")  # as dvc exp run takes them


def run_notebook(seed: int) -> tuple[float, float]:
    """Seconds and test accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        train, test = (notebook.load(RAW, Path(folder), train=train) for train in (True, False))
        epochs = list(notebook.train(train, None, 5, seed))
        return sum(seconds for seconds, _ in epochs), notebook.accuracy(epochs[-1][1], test)


def run_ours(seed: int) -> tuple[float, float]:
    """Seconds and test accuracy."""
    cpu = torch.device("cpu")
    train, validation, test = (load_to_device(path, cpu) for path in (TRAIN, VALIDATION, TEST))
    recipe = read_recipe(seed)
    keep_freed_memory()
    make_deterministic(seed)
    network, start = build_network(recipe.network, len(train.info.classes)), perf_counter()
    state = TrainingState.start(network, recipe, len(train.labels))
    list(fit(state, train, validation, recipe, save=lambda state: None))
    seconds = perf_counter() - start
    return seconds, (predict(network, test).argmax(1) == test.labels).double().mean().item()


def read_recipe(seed: int) -> TrainParams:
    """Return the recipe of params.yaml with the changes of quick_recipe.txt, and this seed."""
    settings = [word for word in OPTIONS.read_text(encoding="utf-8").split() if word != "-S"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy(PARAMS_FILE, folder))
        apply_overrides(path, parse_overrides([*settings, f"train.seed={seed}"]))
        values = parse_yaml(path.read_bytes(), path.name)["train"]
    return validate(TrainParams, values, PARAMS_FILE, "train")


def measure(name: str, seed: int) -> tuple[float, float]:
    """Run that function in a process of its own."""
    program = f"from benchmarks import time_to_accuracy; print(*time_to_accuracy.{name}({seed}))"
    if name == "run_ours":
        program = f"import pipeline.stages.train; {program}"  # which sets OpenMP before torch
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds, accuracy = map(float, printed.split())
    return seconds, accuracy


def main() -> None:
    ratios = []
    for seed in SEEDS:
        notebook_seconds, notebook_accuracy = measure("run_notebook", seed)
        seconds, accuracy = measure("run_ours", seed)
        ratios.append(notebook_seconds / seconds)
        reached = "reaches" if accuracy >= TARGET else "MISSES"
        print(
            f"seed {seed}: notebook {notebook_seconds:.1f} s, {notebook_accuracy:.2%}; ours"
            f" {seconds:.1f} s, {accuracy:.2%}, {reached} {TARGET:.2%}; {ratios[-1]:.1f} times"
            " faster",
            flush=True,
        )
    print(
        f"mean {statistics.mean(ratios):.1f} times faster, median {statistics.median(ratios):.1f}"
    )


if __name__ == "__main__":
    main()
