"""Train the CNN, validating after every epoch; after a kill, go on from the last checkpoint to the
same bytes.

Reads the section `train` of params.yaml and data/tensors/{train,validation}.safetensors; writes
models/model.safetensors and its receipt, and, after every epoch, reports/history.csv.
Run: python -m pipeline.stages.train
"""

import math
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field
from torch import Tensor

from pipeline.errors import PipelineError, run_main
from pipeline.files import atomic_write
from pipeline.mnist.checkpoint import Checkpoint, checkpoint_path, load_checkpoint, save_checkpoint
from pipeline.mnist.device import DeviceName, choose_device, keep_freed_memory, make_deterministic
from pipeline.mnist.environment import describe_environment, write_receipt
from pipeline.mnist.inference import load_to_device
from pipeline.mnist.model import CNN, save_model
from pipeline.mnist.training import Epoch, Recipe, TrainingState, fit, with_prefix
from pipeline.params import load_params
from pipeline.paths import HISTORY, MODEL, TRAIN, VALIDATION


class TrainParams(Recipe):
    keep: Literal["best", "last"]  # epoch, by validation accuracy
    device: DeviceName
    checkpoint_every: int = Field(ge=0)  # steps; 0: after each epoch only


def main() -> None:
    params = load_params("train", TrainParams)
    device = choose_device(params.device, "train.device")
    paths = [TRAIN, VALIDATION]
    train, validation = (load_to_device(path, device) for path in paths)
    keep_freed_memory()
    make_deterministic(params.seed)
    network = CNN(len(train.info.classes)).to(device)
    environment = describe_environment(device)
    path = checkpoint_path(
        paths, params=params.model_dump(exclude={"checkpoint_every"}), environment=environment
    )
    resume, history, best = read_progress(path, params)

    def save(snapshot: TrainingState) -> None:
        tensors = snapshot.tensors | {f"best.{name}": weight for name, weight in best.items()}
        values = snapshot.values | {
            "epoch": snapshot.epoch,
            "done": snapshot.done,
            "history": history,
        }
        save_checkpoint(path, Checkpoint(tensors, values))

    for epoch in fit(
        network,
        train,
        validation,
        params,
        resume=resume,
        save=save,
        save_every=params.checkpoint_every,
    ):
        if not math.isfinite(epoch.train_loss):
            raise PipelineError(
                f"training diverged: the loss of epoch {epoch.epoch} is {epoch.train_loss};"
                f" lower params.yaml: train.learning_rate, now {params.learning_rate:g}"
            )
        history.append(epoch)
        if params.keep == "best" and epoch.validation_accuracy >= max(
            row.validation_accuracy for row in history
        ):
            best = {name: weight.clone() for name, weight in network.state_dict().items()}
        write_history(history)
        print(
            f"epoch {epoch.epoch}/{params.epochs}: train loss {epoch.train_loss:.4f}, "
            f"validation loss {epoch.validation_loss:.4f}, validation accuracy"
            f" {epoch.validation_accuracy:.2%}",
            flush=True,
        )
    save_model(MODEL, best or network.state_dict(), train.info)
    write_receipt(MODEL, environment)
    path.unlink(missing_ok=True)


def read_progress(
    path: Path, params: TrainParams
) -> tuple[TrainingState | None, list[Epoch], dict[str, Tensor]]:
    """Where a killed run of this training stood, its history, and its best weights where these are
    to be kept.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint is None:
        return None, [], {}
    tensors, values = checkpoint
    history = [Epoch(*row) for row in values["history"]]
    within = f" and {values['done']:,} images" if values["done"] else ""
    print(f"resuming after epoch {len(history)} of {params.epochs}{within}", flush=True)
    if history:
        write_history(history)  # DVC deleted it
    return (
        TrainingState(values["epoch"], values["done"], tensors, values),
        history,
        with_prefix(tensors, "best."),
    )


def write_history(history: list[Epoch]) -> None:
    with atomic_write(HISTORY) as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    run_main(main)
