"""Train the network and validate it after every epoch.

A killed training goes on from its last checkpoint, to the same bytes.
Reads the section `train` of params.yaml and
data/tensors/{train,validation,own_train,own_validation}.safetensors; writes
models/model.safetensors, reports/receipt.json, and after every epoch reports/history.csv.
Run: python -m pipeline.stages.train
"""

import math
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from pipeline.mnist import openmp  # noqa: F401 - before torch loads OpenMP

# isort: split

from pipeline.errors import PipelineError, run_main
from pipeline.files import atomic_write
from pipeline.mnist.calibration import fit_temperature
from pipeline.mnist.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint
from pipeline.mnist.device import (
    DeviceName,
    check_precision,
    choose_device,
    keep_freed_memory,
    make_deterministic,
)
from pipeline.mnist.environment import describe_environment, write_receipt
from pipeline.mnist.inference import load_with_own, predict
from pipeline.mnist.model import NetworkParams, build_network, save_model
from pipeline.mnist.recipe import Recipe
from pipeline.mnist.training import Epoch, TrainingState, fit
from pipeline.params import load_params
from pipeline.paths import HISTORY, MODEL, OWN_TRAIN, OWN_VALIDATION, TRAIN, VALIDATION


class TrainParams(Recipe):
    keep: Literal["best", "last"]  # epoch; the best by validation accuracy
    calibrate: bool  # the confidences, on the validation images
    device: DeviceName
    checkpoint_every: int = Field(ge=0)  # steps; 0: after each epoch only
    network: NetworkParams


def main() -> None:
    params = load_params("train", TrainParams)
    device = choose_device(params.device, "train.device")
    check_precision(params.precision, device, "train.precision")
    train, own = load_with_own(TRAIN, OWN_TRAIN, device)
    validation, _ = load_with_own(VALIDATION, OWN_VALIDATION, device)
    keep_freed_memory()
    make_deterministic(params.seed)
    network = build_network(params.network, len(train.info.classes)).to(device)
    state = TrainingState.start(network, params, len(train.labels), own)
    environment = describe_environment(device)
    checkpoint = checkpoint_path(
        [TRAIN, VALIDATION, OWN_TRAIN, OWN_VALIDATION],
        params=params.model_dump(exclude={"checkpoint_every"}),
        environment=environment,
    )

    def save(state: TrainingState) -> None:
        save_checkpoint(checkpoint, state.to_checkpoint())

    resume(state, checkpoint, params.epochs)
    every = params.checkpoint_every
    for epoch in fit(state, train, validation, params, save=save, save_every=every):
        if not math.isfinite(epoch.train_loss):
            raise PipelineError(
                f"training diverged: the loss of epoch {epoch.epoch:g} is {epoch.train_loss};"
                f" lower params.yaml: train.learning_rate, now {params.learning_rate:g}"
            )
        best = max(row.validation_accuracy for row in state.history)
        if params.keep == "best" and epoch.validation_accuracy == best:
            state.keep_weights()  # before fit saves the state, when it is asked for the next epoch
        write_history(state.history)
        print(
            f"epoch {epoch.epoch:g}/{params.epochs:g}: train loss {epoch.train_loss:.4f},"
            f" validation loss {epoch.validation_loss:.4f}, validation accuracy"
            f" {epoch.validation_accuracy:.2%}",
            flush=True,
        )
    network.load_state_dict(state.kept_weights or network.state_dict())
    temperature = 1.0
    if params.calibrate:
        temperature = fit_temperature(predict(network, validation), validation.labels)
    save_model(MODEL, network, params.network, train.info, temperature)
    write_receipt(environment)
    checkpoint.unlink(missing_ok=True)


def resume(state: TrainingState, path: Path, epochs: float) -> None:
    """Go on from the checkpoint of a killed training, if there is one."""
    checkpoint = load_checkpoint(path)
    if checkpoint is None:
        return
    state.restore(checkpoint)
    within = f" and {state.images_done:,} images" if state.images_done else ""
    print(f"resuming after epoch {len(state.history)} of {epochs:g}{within}", flush=True)
    if state.history:
        write_history(state.history)  # DVC deletes it before it runs this stage


def write_history(history: list[Epoch]) -> None:
    with atomic_write(HISTORY) as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    run_main(main)
