"""Turn the IDX files into tensor files, and split the training images into train and validation.

Reads the section `preprocess` of params.yaml and data/raw/; writes
data/tensors/{train,validation,test}.safetensors. Run: python -m pipeline.stages.preprocess
"""

import numpy as np
from pydantic import Field
from sklearn.model_selection import train_test_split

from pipeline.errors import ParamsError, run_main
from pipeline.mnist.idx import Digits, read_dataset_info, read_raw
from pipeline.mnist.tensors import TensorInfo, save_digits
from pipeline.params import Params, load_params
from pipeline.paths import RAW, TEST, TRAIN, VALIDATION


class PreprocessParams(Params):
    validation_size: int = Field(gt=0)  # images
    seed: int = Field(ge=0, lt=2**32)
    mean: float = Field(ge=0, le=1)  # of pixels scaled to [0, 1]
    std: float = Field(gt=0)


def split(digits: Digits, validation_size: int, seed: int) -> tuple[Digits, Digits]:
    """Return train and validation digits, each with all classes in the proportions of `digits`."""
    count = len(digits.labels)
    try:
        parts = train_test_split(
            np.arange(count), test_size=validation_size, stratify=digits.labels, random_state=seed
        )
    except ValueError as error:
        raise ParamsError(
            "params.yaml: preprocess.validation_size must leave images of every class in both"
            f" parts of the {count:,} training images, got {validation_size}"
        ) from error
    train, validation = (Digits(digits.images[rows], digits.labels[rows]) for rows in parts)
    return train, validation


def main() -> None:
    params = load_params("preprocess", PreprocessParams)
    info = TensorInfo(**read_dataset_info(RAW).model_dump(), mean=params.mean, std=params.std)
    test = read_raw(RAW, "test")  # before anything is written, so that a bad file changes nothing
    train, validation = split(read_raw(RAW, "train"), params.validation_size, params.seed)
    for path, digits in {TRAIN: train, VALIDATION: validation, TEST: test}.items():
        save_digits(path, digits, info)
        print(f"{path.stem}: {len(digits.labels):,} images")


if __name__ == "__main__":
    run_main(main)
