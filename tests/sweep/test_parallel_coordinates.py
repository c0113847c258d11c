"""The plot of a sweep."""

import pandas as pd

from pipeline.sweep.parallel_coordinates import draw_parallel_coordinates, to_svg


def test_equal_results_give_an_equal_plot() -> None:
    table = pd.DataFrame(
        {"train.rate": [1, 2], "train.keep": ["best", "<b>$x$"], "validation accuracy": [0.5, 0.9]}
    )
    drawn = {to_svg(draw_parallel_coordinates(table)) for _ in range(2)}
    assert len(drawn) == 1
    assert b"&lt;b&gt;$x$" in drawn.pop()
