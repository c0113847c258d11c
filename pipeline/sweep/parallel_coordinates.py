"""Parallel coordinates: one line for each combination of a sweep, from its parameters to its
result.
"""

import io
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Equal inputs give equal bytes
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "sweep",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
}
SPREAD = 0.06  # of an axis' height, over which the lines that meet in one value are fanned out


def draw_parallel_coordinates(table: pd.DataFrame) -> Figure:
    """Draw each row of `table` over its columns; the last is the result in [0, 1], by which lines
    are coloured.
    """
    table = table.sort_values(table.columns[-1], ignore_index=True)  # the best is drawn last
    heights = np.column_stack([to_heights(table[name]) for name in table])
    fan = np.linspace(-SPREAD / 2, SPREAD / 2, len(table))
    with rc_context(STYLE):
        figure = Figure(figsize=(2.2 + 2 * len(table.columns), 4.2), layout="constrained")
        axes = figure.subplots()
        for rank, line in enumerate(heights):
            fanned = np.append(line[:-1] + fan[rank], line[-1])
            is_best = rank == len(table) - 1
            axes.plot(
                fanned,
                color=colormaps["viridis"](0.9 * line[-1]),
                linewidth=3.5 if is_best else 1.5,
            )
        for position, name in enumerate(table):
            axes.axvline(position, color="0.6", linewidth=0.8)
            is_result = position == len(table.columns) - 1
            for height, value in dict(zip(heights[:, position], table[name], strict=True)).items():
                if not is_result or height in (
                    heights[0, -1],
                    heights[-1, -1],
                ):  # the worst and the best
                    text = f"{value:.2%}" if is_result else str(value)
                    axes.annotate(
                        text, (position, height), (7, 0), textcoords="offset points", va="center"
                    )
        axes.set(xticks=range(len(table.columns)), xlim=(-0.1, len(table.columns) - 0.4), yticks=[])
        axes.set_xticklabels(table.columns, parse_math=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def to_heights(column: "pd.Series[Any]") -> NDArray[np.float64]:
    """From 0 to 1: numbers to scale, anything else a step each; in the middle where there is one
    value only.
    """
    if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
        column = pd.Series(pd.factorize(column.astype(str))[0])
    numbers = column.to_numpy(dtype=np.float64)
    span = np.ptp(numbers)
    return (numbers - numbers.min()) / span if span else np.full_like(numbers, 0.5)


def to_svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
