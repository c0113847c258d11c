"""Load a stage's own section of params.yaml into its frozen model."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import ParamsError

PARAMS_FILE = Path("params.yaml")


class Params(BaseModel):
    """Base of the stages' parameter models: no defaults, no unknown keys, no conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


P = TypeVar("P", bound=Params)


def load_params(section: str, model: type[P]) -> P:
    """Return `section` of ./params.yaml as `model`; raise ParamsError with every fault found."""
    values = load_section(section)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = [_describe(section, fault, model) for fault in error.errors()]
        raise ParamsError("\nerror: ".join(faults)) from error


def load_section(section: str) -> dict[str, Any]:
    """Return `section` of ./params.yaml as it stands there; raise ParamsError where it is none.

    The file is read as DVC reads it, as YAML 1.2: `1e-3` is a number, `yes` is a string.
    """
    sections = _read_yaml(PARAMS_FILE)
    if section not in sections:
        raise ParamsError(f"{PARAMS_FILE}: the section '{section}' is missing; add it")
    values = sections[section]
    if not isinstance(values, dict):
        raise ParamsError(
            f"{PARAMS_FILE}: {section} must be a section of names and values, got {values!r}"
        )
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParamsError(f"{path} is missing here; run from the folder that holds it") from error
    except (YAMLError, UnicodeDecodeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ParamsError(f"{path} is not valid YAML: {reason}") from error
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"is a {type(content).__name__}"
        raise ParamsError(f"{path} {found}; it must hold one section per stage")
    return content


def _describe(section: str, fault: ErrorDetails, model: type[Params]) -> str:
    name = ".".join([section, *map(str, fault["loc"])])
    if fault["type"] == "missing":
        return f"{PARAMS_FILE}: {name} is missing; add it"
    if fault["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields)
        return f"{PARAMS_FILE}: {name} is not a parameter; {section} has {known}"
    rule = (
        fault["msg"].replace("Input should be", "must be").replace("List should have", "must have")
    )
    return f"{PARAMS_FILE}: {name} {rule}, got {fault['input']!r}"
