"""The results of a sweep: a table and a plot, in a folder and on the run's page."""

import base64
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from prefect import get_run_logger
from prefect.artifacts import create_image_artifact, create_table_artifact

from pipeline.files import atomic_write
from pipeline.release.overrides import Changes
from pipeline.sweep.parallel_coordinates import draw_parallel_coordinates, to_svg

RESULT = "validation accuracy"


@dataclass(frozen=True)
class Trial:
    """What became of a combination of parameters."""

    changes: Changes
    state: str  # the name of its run's last state
    message: str
    validation_accuracy: float | None = None
    seconds: float | None = None

    @property
    def has_result(self) -> bool:
        return self.validation_accuracy is not None

    @property
    def rank(self) -> float:
        """What trials are sorted by: the result, or less than any result."""
        return -1.0 if self.validation_accuracy is None else self.validation_accuracy

    @property
    def line(self) -> str:
        if self.validation_accuracy is None:
            return f"{trial_name(self.changes)}: {self.state}, {self.message}"
        return f"{trial_name(self.changes)}: {RESULT} {self.validation_accuracy:.2%}"


def trial_name(changes: Changes) -> str:
    return ", ".join(f"{name} {value}" for name, value in changes.items())


def to_table(trials: list[Trial]) -> pd.DataFrame:
    """Return a row for each trial: its parameters, its result, and how it ended."""
    rows = []
    for trial in trials:
        result = {RESULT: trial.validation_accuracy}
        ending = {"state": trial.state, "seconds": trial.seconds, "message": trial.message}
        rows.append(trial.changes | result | ending)
    return pd.DataFrame(rows)


def publish_table(trials: list[Trial], folder: Path) -> None:
    """Write the trials to combinations.csv, the log and the run's page."""
    table = to_table(trials)
    path = folder / "combinations.csv"
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    create_table_artifact(rows, key="combinations", description=f"The best by {RESULT} first")
    shown = table.drop(columns="message").to_string(
        index=False, na_rep="-", formatters={RESULT: "{:.2%}".format}
    )
    get_run_logger().info("%s\n%s", shown, path)


def publish_plot(trials: list[Trial], folder: Path) -> None:
    """Draw the trials that have a result, to combinations.svg and the run's page."""
    table = to_table(trials)
    drawn = table.loc[table[RESULT].notna(), [*trials[0].changes, RESULT]]
    picture = to_svg(draw_parallel_coordinates(drawn))
    with atomic_write(folder / "combinations.svg") as temporary:
        temporary.write_bytes(picture)
    address = "data:image/svg+xml;base64," + base64.b64encode(picture).decode()
    create_image_artifact(address, key="coordinates")
