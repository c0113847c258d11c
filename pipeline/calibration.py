"""How far confidence can be trusted: as often as it says, or not."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int) -> pd.DataFrame:
    """One row for each bin of equal width that has images: its bounds, their number, mean confidence and accuracy."""
    table = pd.DataFrame({"confidence": confidence, "accuracy": correct})
    table["bin"] = np.minimum((confidence * bins).astype(int), bins - 1)
    grouped = table.groupby("bin")
    means = grouped.mean().reset_index()
    bounds = {"lower": means["bin"] / bins, "upper": (means["bin"] + 1) / bins}
    return pd.DataFrame({**bounds, "images": grouped.size().to_numpy(), **means[["confidence", "accuracy"]]})


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error: the mean over images of |accuracy - confidence| of their bin.

    By https://arxiv.org/abs/1706.04599; written out because the library that has it, torchmetrics, takes longer
    to import than the stage to run.
    """
    gaps = (table["accuracy"] - table["confidence"]).abs()
    return float((table["images"] * gaps).sum() / table["images"].sum())
