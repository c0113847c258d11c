"""How far confidence can be trusted: as often as it says, or not."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int) -> pd.DataFrame:
    """One row for each bin of equal width: its number of images, and their mean confidence and accuracy."""
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    means = {
        name: np.bincount(bin_of, weights=values, minlength=bins) / np.maximum(counts, 1)
        for name, values in {"confidence": confidence, "accuracy": correct}.items()
    }
    return pd.DataFrame({"images": counts, **means})


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error: the mean over images of |accuracy - confidence| of their bin.

    By https://arxiv.org/abs/1706.04599; written out because the library that has it, torchmetrics, takes longer
    to import than the stage to run.
    """
    gaps = (table["accuracy"] - table["confidence"]).abs()
    return float((table["images"] * gaps).sum() / table["images"].sum())
