"""The time that checkpoints take, as a share of the training on MNIST.

Run: python -m benchmarks.checkpoint, after `dvc repro preprocess`. Both times are of one training:
two trainings would differ by more than the share.
"""

import tempfile
from pathlib import Path
from time import perf_counter

import torch

from pipeline.mnist.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint
from pipeline.mnist.device import keep_freed_memory, make_deterministic
from pipeline.mnist.inference import load_to_device
from pipeline.mnist.model import build_network
from pipeline.mnist.training import TrainingState, fit
from pipeline.params import load_params
from pipeline.paths import TRAIN, VALIDATION
from pipeline.stages.train import TrainParams


def main() -> None:
    params = load_params("train", TrainParams)
    paths = [TRAIN, VALIDATION]
    train, validation = (load_to_device(path, torch.device("cpu")) for path in paths)
    saving: list[float] = []
    with tempfile.TemporaryDirectory(dir=".") as name:
        path = Path(name) / "checkpoint"

        def save(state: TrainingState) -> None:
            start = perf_counter()
            save_checkpoint(path, state.to_checkpoint())
            saving.append(perf_counter() - start)

        keep_freed_memory()
        make_deterministic(params.seed)
        start = perf_counter()
        checkpoint_path(paths, params=params.model_dump())
        load_checkpoint(path)
        preparing = perf_counter() - start
        start = perf_counter()
        network = build_network(params.network, len(train.info.classes))
        state = TrainingState.start(network, params, len(train.labels))
        every = params.checkpoint_every
        epochs = len(list(fit(state, train, validation, params, save=save, save_every=every)))
        total = perf_counter() - start
        size = path.stat().st_size
    share = (preparing + sum(saving)) / (total - sum(saving))
    print(
        f"training {total - sum(saving):.1f} s; {epochs} epochs, {len(saving)} checkpoints of"
        f" {size / 1e6:.1f} MB"
    )
    print(
        f"checkpoints {sum(saving):.3f} s, fingerprint {preparing:.3f} s: {share:.2%} of the"
        " training"
    )


if __name__ == "__main__":
    main()
