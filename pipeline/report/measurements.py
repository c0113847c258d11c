"""What stages write to reports/, checked when it is read. All raise DataError."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import DataError

Result = TypeVar("Result")
Fraction = Annotated[float, Field(ge=0, le=1)]
Float32 = Annotated[float, Field(ge=-3.4e38, le=3.4e38)]  # what PyTorch computes with
Count = Annotated[int, Field(ge=0, lt=2**31)]


class Row(BaseModel):
    """A row of a table; columns that it does not name are left alone."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class HistoryRow(Row):
    epoch: Annotated[float, Field(gt=0, lt=2**31)]  # the last one may be cut short
    learning_rate: Float32
    train_loss: Float32
    validation_loss: Float32
    validation_accuracy: Fraction


class PredictionRow(Row):
    source: str
    image: str
    label: Count
    prediction: Count
    confidence: Fraction


class ReliabilityRow(Row):
    lower: Fraction
    upper: Fraction
    images: Count
    confidence: Fraction
    accuracy: Fraction


class ClassFigures(Row):
    precision: Fraction
    recall: Fraction
    f1: Fraction


class OwnFigures(ClassFigures):
    images: Count
    accuracy: Fraction
    loss: float


class Metrics(Row):
    """The figures that the page names; any other is shown, too."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, float] = Field(init=False)

    accuracy: Fraction
    expected_calibration_error: Fraction
    per_class: dict[str, ClassFigures] = Field(min_length=1)
    own: OwnFigures | None = None  # of the held-out own images, if there are some


class DataCounts(Row):
    images: dict[str, dict[str, dict[str, Count]]]  # by source, split and class
    warnings: dict[str, str]  # by batch of own images


def read_metrics(path: Path) -> dict[str, Any]:
    """Return the figures in the file's order."""

    def parse(path: Path) -> dict[str, Any]:
        content = path.read_bytes()
        metrics = Metrics.model_validate_json(content).model_dump()
        return {name: metrics[name] for name in json.loads(content)}

    return read_stage_output(path, parse)


def read_counts(path: Path) -> DataCounts:
    return read_stage_output(path, lambda path: DataCounts.model_validate_json(path.read_bytes()))


def read_table(path: Path, row: type[Row]) -> pd.DataFrame:
    """Return the columns that `row` names, of a table with at least one row."""
    rows: TypeAdapter[list[Row]] = TypeAdapter(list[row])  # type: ignore[valid-type]  # known at run time

    texts = {name: str for name, field in row.model_fields.items() if field.annotation is str}

    def parse(path: Path) -> pd.DataFrame:
        table = pd.read_csv(path, low_memory=False, dtype=texts)
        if table.empty:
            raise ValueError("it has no rows")
        return pd.DataFrame(
            [found.model_dump() for found in rows.validate_python(table.to_dict("records"))]
        )

    return read_stage_output(path, parse)


def read_stage_output(path: Path, parse: Callable[[Path], Result]) -> Result:
    """Return what `parse` makes of a file that a stage writes."""
    try:
        return parse(path)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing; run the stages before this one: dvc repro evaluate"
        ) from error
    except ValidationError as error:
        raise unreadable(path, describe_fault(error.errors()[0])) from error
    except ValueError as error:  # what pandas raises
        raise unreadable(path, str(error)) from error


def describe_fault(fault: ErrorDetails) -> str:
    place = [f"row {part + 1}:" if isinstance(part, int) else part for part in fault["loc"]]
    rule = fault["msg"].replace("Input should be", "must be")
    missing = fault["type"] == "missing"
    return " ".join([*place, "is missing" if missing else f"{rule}, got {fault['input']!r:.60}"])


def unreadable(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} cannot be read ({' '.join(reason.split())}); make it again: dvc repro --force"
        " evaluate"
    )
