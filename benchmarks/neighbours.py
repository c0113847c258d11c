"""A training beside another one, and beside a process that keeps a core busy, against alone.

Run: python -m benchmarks.neighbours [ROUNDS, 5 by default]. Each training is a fifth of an epoch of
the recipe in params.yaml, in a process of its own; its start, imports and data do not count.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from time import perf_counter

from pipeline.mnist import openmp  # noqa: F401 - before torch loads OpenMP, as in the train stage

# isort: split
from pipeline.mnist.device import choose_device, keep_freed_memory, make_deterministic
from pipeline.mnist.inference import TensorDigits, load_to_device
from pipeline.mnist.model import build_network
from pipeline.mnist.training import TrainingState, fit
from pipeline.params import load_params
from pipeline.paths import TRAIN
from pipeline.stages.train import TrainParams

EPOCHS = 0.2
OWN_WAY = {"GOMP_SPINCOUNT": "300000"}  # what GNU's OpenMP takes if nobody sets it
BUSY = "while True: pass"


def train() -> None:
    """Say when all is ready, wait for a line, train, and print the seconds."""
    digits = load_to_device(TRAIN, choose_device("cpu", ""))
    none = TensorDigits(digits.images[:1], digits.labels[:1], digits.info)
    recipe = load_params("train", TrainParams).model_copy(update={"epochs": EPOCHS})
    keep_freed_memory()
    make_deterministic(1)
    network = build_network(recipe.network, len(digits.info.classes))
    state = TrainingState.start(network, recipe, len(digits.labels))
    print("ready", flush=True)
    sys.stdin.readline()
    start = perf_counter()
    list(fit(state, digits, none, recipe, save=lambda state: None))
    print(perf_counter() - start)


def measure(trainings: int, environment: Mapping[str, str] = {}) -> float:
    """Return the seconds until all of so many trainings at once are done."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.neighbours", "train"],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(trainings)
    ]
    for process in processes:
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("a training ended before it began")
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    return max(float(process.communicate()[0]) for process in processes)


def measure_beside_a_busy_core() -> float:
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        return measure(1)
    finally:
        busy.kill()
        busy.wait()


def main() -> None:
    if sys.argv[1:] == ["train"]:
        train()
        return
    columns = ("alone", "two/(2 alone)", "busy core/alone", "alone/OpenMP's own", "two so")
    print("".join(f"{column:>20}" for column in columns))
    rows = []
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
        alone, own = measure(1), measure(1, OWN_WAY)
        two, two_own = measure(2), measure(2, OWN_WAY)
        busy = measure_beside_a_busy_core()
        rows.append((alone, two / (2 * alone), busy / alone, alone / own, two_own / (2 * own)))
        print("".join(f"{figure:20.2f}" for figure in rows[-1]), flush=True)
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    print("median\n" + "".join(f"{median:20.2f}" for median in medians))


if __name__ == "__main__":
    main()
