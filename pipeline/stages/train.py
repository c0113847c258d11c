"""Train the CNN, validating after every epoch.

Reads the section `train` of params.yaml and data/tensors/{train,validation}.safetensors; writes
models/model.safetensors and, after every epoch, reports/history.csv. Run: python -m pipeline.stages.train
"""

import math
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from pipeline.errors import PipelineError, run
from pipeline.files import atomic_write
from pipeline.model import CNN, save_model
from pipeline.params import Params, load_params
from pipeline.training import (
    DeviceName,
    Epoch,
    ScheduleName,
    choose_device,
    fit,
    keep_freed_memory,
    load_digits,
    make_deterministic,
)

TENSORS = Path("data/tensors")
MODEL = Path("models/model.safetensors")
HISTORY = Path("reports/history.csv")


class TrainParams(Params):
    seed: int = Field(ge=0, lt=2**32)
    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0, le=1)
    schedule: ScheduleName
    max_shift: int = Field(ge=0, le=14)  # pixels
    keep: Literal["best", "last"]  # epoch, by validation accuracy
    device: DeviceName


def main() -> None:
    params = load_params("train", TrainParams)
    device = choose_device(params.device, "train.device")
    train, validation = (load_digits(TENSORS / f"{name}.safetensors", device) for name in ("train", "validation"))
    keep_freed_memory()
    make_deterministic(params.seed)
    network = CNN(len(train.info.classes)).to(device)
    history: list[Epoch] = []
    weights = {}
    recipe = params.model_dump(exclude={"keep", "device"})
    for epoch in fit(network, train, validation, **recipe):
        if not math.isfinite(epoch.train_loss):
            raise PipelineError(
                f"training diverged: the loss of epoch {epoch.epoch} is {epoch.train_loss};"
                f" lower params.yaml: train.learning_rate, now {params.learning_rate:g}"
            )
        history.append(epoch)
        if params.keep == "last" or epoch.validation_accuracy >= max(row.validation_accuracy for row in history):
            weights = {name: weight.clone() for name, weight in network.state_dict().items()}
        write_history(history)
        print(
            f"epoch {epoch.epoch}/{params.epochs}: train loss {epoch.train_loss:.4f}, "
            f"validation loss {epoch.validation_loss:.4f}, validation accuracy {epoch.validation_accuracy:.2%}",
            flush=True,
        )
    save_model(MODEL, weights, train.info)


def write_history(history: list[Epoch]) -> None:
    with atomic_write(HISTORY) as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    run(main)
