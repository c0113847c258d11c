"""Parallel coordinates: a line for each trial of a sweep, from its parameters to its result."""

import io
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Equal inputs give equal bytes
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "sweep",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
}
SPREAD = 0.06  # of an axis' height: lines of the same value are drawn this far apart


def draw_parallel_coordinates(table: pd.DataFrame) -> Figure:
    """Draw each row of `table` as a line over its columns.

    The last column is the result, in [0, 1]. It gives a line its colour.
    """
    table = table.sort_values(table.columns[-1], ignore_index=True)  # the best is drawn last
    heights = np.column_stack([to_heights(table[name]) for name in table])
    with rc_context(STYLE):
        figure = Figure(figsize=(2.2 + 2 * len(table.columns), 4.2), layout="constrained")
        axes = figure.subplots()
        draw_lines(axes, heights)
        draw_axes(axes, heights, table)
    return figure


def draw_lines(axes: Axes, heights: NDArray[np.float64]) -> None:
    """Draw a line for each row of heights [rows, columns]; the last row is the best."""
    fan = np.linspace(-SPREAD / 2, SPREAD / 2, len(heights))
    for rank, line in enumerate(heights):
        axes.plot(
            np.append(line[:-1] + fan[rank], line[-1]),
            color=colormaps["viridis"](0.9 * line[-1]),
            linewidth=3.5 if rank == len(heights) - 1 else 1.5,
        )


def draw_axes(axes: Axes, heights: NDArray[np.float64], table: pd.DataFrame) -> None:
    """Draw an axis for each column with its values; of the result, the worst and the best."""
    last = len(table.columns) - 1
    for position, name in enumerate(table):
        axes.axvline(position, color="0.6", linewidth=0.8)
        for height, value in dict(zip(heights[:, position], table[name], strict=True)).items():
            if position == last and height not in (heights[0, -1], heights[-1, -1]):
                continue
            text = f"{value:.2%}" if position == last else str(value)
            axes.annotate(text, (position, height), (7, 0), textcoords="offset points", va="center")
    axes.set(xticks=range(len(table.columns)), xlim=(-0.1, last + 0.6), yticks=[])
    axes.set_xticklabels(table.columns, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def to_heights(column: "pd.Series[Any]") -> NDArray[np.float64]:
    """Return a height in [0, 1] for each value: numbers to scale, anything else a step each.

    A column of equal values is in the middle.
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
