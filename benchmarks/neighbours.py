"""A training beside another one, and beside a process that keeps a core busy, against alone.

Run: python -m benchmarks.neighbours [ROUNDS, 5 by default]. Each training is two fifths of an epoch
of the recipe in params.yaml, in a process of its own; its start, imports and data do not count.
"""

import os
import statistics
import subprocess
import sys
from time import perf_counter
from typing import NamedTuple

from pipeline.mnist import openmp  # noqa: F401 - before torch loads OpenMP, as in the train stage

# isort: split
from pipeline.mnist.device import choose_device, keep_freed_memory, make_deterministic
from pipeline.mnist.inference import TensorDigits, load_to_device
from pipeline.mnist.model import build_network
from pipeline.mnist.training import TrainingState, fit
from pipeline.params import load_params
from pipeline.paths import TRAIN
from pipeline.stages.train import TrainParams

EPOCHS = 0.4
BUSY = "while True: pass"
PROGRAM = "from benchmarks.neighbours import train; train()"


class Way(NamedTuple):
    """How the threads of OpenMP wait for one another."""

    program: str
    spin: str | None = None  # GNU's turns; None: what the program sets


WAYS = {
    "the train stage": Way(PROGRAM),  # LLVM's, where the machine has it
    "the same without LLVM's": Way(f"import torch; {PROGRAM}", os.environ["GOMP_SPINCOUNT"]),
    "torch's own": Way(f"import torch; {PROGRAM}", "300000"),  # what GNU's takes if nobody sets it
}


class Figures(NamedTuple):
    alone: float
    to_own: float
    two: float
    busy: float


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


def measure(way: Way, trainings: int = 1) -> float:
    """Return the seconds until all of so many trainings at once are done."""
    variables = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", way.program],
            env=variables | ({"GOMP_SPINCOUNT": way.spin} if way.spin else {}),
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


def measure_beside_a_busy_core(way: Way) -> float:
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        return measure(way)
    finally:
        busy.kill()
        busy.wait()


def measure_round() -> list[Figures]:
    """Return the figures of each way."""
    alone = [measure(way) for way in WAYS.values()]
    return [
        Figures(
            seconds,
            seconds / alone[-1],
            measure(way, 2) / (2 * seconds),
            measure_beside_a_busy_core(way) / seconds,
        )
        for way, seconds in zip(WAYS.values(), alone, strict=True)
    ]


def main() -> None:
    columns = ("alone", "alone/torch's own", "two/(2 alone)", "busy core/alone")
    print(" " * 24 + "".join(f"{column:>19}" for column in columns))
    rounds = []
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
        rounds.append(measure_round())
        show(rounds[-1])
    print("medians")
    show(
        [
            Figures(*map(statistics.median, zip(*way, strict=True)))
            for way in zip(*rounds, strict=True)
        ]
    )


def show(ways: list[Figures]) -> None:
    for name, figures in zip(WAYS, ways, strict=True):
        print(f"{name:24}" + "".join(f"{figure:19.2f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
