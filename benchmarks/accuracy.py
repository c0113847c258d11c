"""Test accuracy with params.yaml for several seeds, their mean and standard deviation.

Run: python -m benchmarks.accuracy [SEED ...], 21 to 25 by default. A seed decides the validation
split, the first weights, the order and the distortions. No training sees its validation images or
the test split.
"""

import statistics
import sys

import torch

from pipeline.mnist.device import keep_freed_memory, make_deterministic
from pipeline.mnist.idx import read_raw
from pipeline.mnist.inference import TensorDigits, predict
from pipeline.mnist.model import build_network
from pipeline.mnist.tensors import TensorInfo
from pipeline.mnist.training import TrainingState, fit
from pipeline.params import load_params
from pipeline.paths import RAW
from pipeline.stages.preprocess import PreprocessParams, split
from pipeline.stages.train import TrainParams

SEEDS = (21, 22, 23, 24, 25)


def main() -> None:
    seeds = [int(text) for text in sys.argv[1:]] or SEEDS
    preprocess, train = (
        load_params("preprocess", PreprocessParams),
        load_params("train", TrainParams),
    )
    info = TensorInfo(
        dataset="MNIST", classes=tuple("0123456789"), mean=preprocess.mean, std=preprocess.std
    )
    keep_freed_memory()
    accuracies = []
    for seed in seeds:
        parts = (*split(read_raw(RAW, "train"), preprocess.validation_size, seed),)
        train_digits, validation, test = (
            TensorDigits(torch.from_numpy(part.images), torch.from_numpy(part.labels).long(), info)
            for part in (*parts, read_raw(RAW, "test"))
        )
        make_deterministic(seed)
        network = build_network(train.network, len(info.classes))
        recipe = train.model_copy(update={"seed": seed})
        state = TrainingState.start(network, recipe, len(train_digits.labels))
        history = list(fit(state, train_digits, validation, recipe, save=lambda state: None))
        accuracies.append((predict(network, test).argmax(1) == test.labels).double().mean().item())
        print(
            f"seed {seed}: test {accuracies[-1]:.2%}, validation"
            f" {history[-1].validation_accuracy:.2%}",
            flush=True,
        )
    print(
        f"mean {statistics.mean(accuracies):.3%}, standard deviation"
        f" {statistics.stdev(accuracies):.3%}"
    )


if __name__ == "__main__":
    main()
