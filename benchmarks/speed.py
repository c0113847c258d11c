"""Training speed, compared with the notebook's and with the machine's matrix products.

Run: make bench. The loops run in turn on the same images in batches of 64. Each has a process of
its own, because heap tuning affects a whole process.
"""

import math
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import notebook
from pipeline.mnist.augmentation import Distortion
from pipeline.mnist.device import Precision, has_bfloat16, keep_freed_memory, make_deterministic
from pipeline.mnist.inference import TensorDigits, load_to_device
from pipeline.mnist.model import build_network
from pipeline.mnist.recipe import Recipe
from pipeline.mnist.tracing import record_calls
from pipeline.mnist.training import TrainingState, fit
from pipeline.params import load_params
from pipeline.paths import RAW, TRAIN
from pipeline.stages.train import TrainParams

ROUNDS = 7
IMAGES = 64 * 50  # in an epoch
EPOCHS = 7  # the first warms up, and the median of the others counts
CPU = torch.device("cpu")


def make_network() -> nn.Module:
    return build_network(load_params("train", TrainParams).network, classes=10)


def make_recipe(precision: Precision) -> Recipe:
    """Return the notebook's recipe, in this precision."""
    return load_params("train", TrainParams).model_copy(
        update={
            "epochs": EPOCHS,
            "batch_size": 64,
            "optimizer": "adam",
            "muon": None,
            "learning_rate": 0.001,
            "schedule": "constant",
            "warm_up": 0.0,
            "label_smoothing": 0.0,
            "precision": precision,
            "distortion": Distortion(rotation=0, scaling=0, shear=0, translation=0, elastic=0),
        }
    )


def time_notebook() -> float:
    """Images per second."""
    with tempfile.TemporaryDirectory() as folder:
        data = notebook.load(RAW, Path(folder), train=True)
        seconds = [seconds for seconds, _ in notebook.train(data, IMAGES, EPOCHS, seed=1)]
    return IMAGES / statistics.median(seconds[1:])


def time_ours(precision: Precision = "float32") -> float:
    """Images per second of the loop that the train stage runs, without its validation.

    NaN if the processor has no arithmetic in that precision.
    """
    if precision == "bfloat16" and not has_bfloat16(CPU):
        return math.nan
    digits = load_to_device(TRAIN, CPU)
    train = TensorDigits(digits.images[:IMAGES], digits.labels[:IMAGES], digits.info)
    validation = TensorDigits(digits.images[:1], digits.labels[:1], digits.info)
    keep_freed_memory()
    make_deterministic(1)
    recipe = make_recipe(precision)
    state = TrainingState.start(make_network(), recipe, IMAGES)
    times = [perf_counter() for _ in fit(state, train, validation, recipe, save=lambda state: None)]
    return IMAGES / statistics.median(after - before for before, after in pairwise(times))


def time_products() -> float:
    """Images per second if a training step were its matrix products only.

    A convolution is a product over its unfolded input (im2col). Each layer has one product forward
    and one for the gradient of its weights; each but the first has one for the gradient of its
    input. The best time of each product counts.
    """
    batch, seconds = 64, 0.0
    calls, _ = record_calls(make_network(), torch.zeros(1, 1, 28, 28))
    products = [call for call in calls if isinstance(call.module, nn.Conv2d | nn.Linear)]
    for layer, (module, _, made) in enumerate(products):
        weights = module.get_parameter("weight")
        outputs, inputs = len(weights), weights[0].numel()
        rows = batch * made.numel() // outputs if made is not None else 0
        seconds += product_time(rows, inputs, outputs) + product_time(inputs, rows, outputs)
        if layer > 0:
            seconds += product_time(rows, outputs, inputs)
    return batch / seconds


def time_square() -> float:
    """Floating-point operations per second of a large square product."""
    return 2 * 2048**3 / product_time(2048, 2048, 2048)


def product_time(rows: int, inner: int, columns: int) -> float:
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    times = []
    for _ in range(30):
        start = perf_counter()
        torch.mm(a, b)
        times.append(perf_counter() - start)
    return min(times)  # a peak is a best time


def operations_per_image() -> float:
    """Floating-point operations of one training step, forward and backward."""
    network, images = make_network(), torch.zeros(64, 1, 28, 28)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(network(images), torch.zeros(64, dtype=torch.long)).backward()
    return float(counter.get_total_flops()) / 64


MEASUREMENTS = {
    "notebook": time_notebook,
    "ours": time_ours,
    "bfloat16": lambda: time_ours("bfloat16"),
    "products": time_products,
    "square": time_square,
}


def measure(name: str) -> float:
    program = f"from benchmarks import speed; print(speed.MEASUREMENTS['{name}']())"
    if name in ("ours", "bfloat16"):
        program = f"import pipeline.stages.train; {program}"  # which sets OpenMP before torch
    command = [sys.executable, "-c", program]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    operations = operations_per_image()
    columns = ["notebook", "ours", "products"]
    columns += ["ours/notebook", "ours/products", "ours/square", "bfloat16/ours"]
    print(
        "images per second, batch 64; products: the step's matrix products alone; square: a"
        " 2048x2048 product's rate"
    )
    print("".join(f"{column:>15}" for column in columns))
    ratios = []
    for _ in range(ROUNDS):
        rates = {name: measure(name) for name in MEASUREMENTS}
        ours = rates["ours"]
        ratios.append(
            (
                ours / rates["notebook"],
                ours / rates["products"],
                ours * operations / rates["square"],
                rates["bfloat16"] / ours,
            )
        )
        figures = [f"{rates[name]:15,.0f}" for name in ("notebook", "ours", "products")]
        print("".join(figures + [f"{ratio:15.2f}" for ratio in ratios[-1]]), flush=True)
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    print(f"{'median':>45}" + "".join(f"{median:15.2f}" for median in medians))


if __name__ == "__main__":
    main()
