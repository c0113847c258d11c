"""Read params.yaml: a stage gets its own section, checked against its model."""

from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import ParamsError

PARAMS_FILE = Path("params.yaml")


class Params(BaseModel):
    """Base of the parameter models: frozen, no defaults, no unknown keys, no conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


P = TypeVar("P", bound=Params)
M = TypeVar("M", bound=BaseModel)


def load_params(section: str, model: type[P]) -> P:
    """Return `section` of ./params.yaml as `model`; raise ParamsError with every fault found."""
    return validate(model, load_section(section), PARAMS_FILE, section)


def load_section(section: str) -> dict[str, Any]:
    """Return the names and values of `section` of ./params.yaml, unchecked.

    Raises ParamsError if there is no such section.
    """
    try:
        content = parse_yaml(PARAMS_FILE.read_bytes(), str(PARAMS_FILE))
    except FileNotFoundError as error:
        raise ParamsError(
            f"{PARAMS_FILE} is missing here; run from the folder that holds it"
        ) from error
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"is a {type(content).__name__}"
        raise ParamsError(f"{PARAMS_FILE} {found}; it must hold one section per stage")
    if section not in content:
        raise ParamsError(f"{PARAMS_FILE}: the section '{section}' is missing; add it")
    return require_section(content[section], PARAMS_FILE, section)


def require_section(values: object, file: Path, section: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ParamsError(
            f"{file}: {section} must be a section of names and values, got {values!r}"
        )
    return values


def parse_yaml(text: str | bytes, name: str) -> Any:
    """Return what YAML text holds, None if it is empty.

    It is read as DVC reads it, as YAML 1.2: `1e-3` is a number, `yes` is a string.
    Raises ParamsError, in one line that begins with `name`, if it is not YAML in UTF-8.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        return YAML(typ="safe").load(decoded)
    except (YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ParamsError(f"{name} is not valid YAML: {reason}") from error


def validate(model: type[M], values: object, file: Path, section: str) -> M:
    """Return `values`, found in `section` of `file`, as `model`.

    Raises ParamsError with every fault found, each in a line that names the file and the parameter.
    """
    try:
        return model.model_validate(require_section(values, file, section))
    except ValidationError as error:
        faults = [f"{file}: {describe_fault(fault, section, model)}" for fault in error.errors()]
        raise ParamsError("\nerror: ".join(faults)) from error


def describe_fault(fault: ErrorDetails, section: str, model: type[BaseModel]) -> str:
    name = ".".join([section, *map(str, fault["loc"])])
    if fault["type"] == "missing":
        return f"{name} is missing; add it"
    if fault["type"] == "value_error":  # of a rule for several parameters, which names the first
        return f"{name}.{fault['ctx']['error']}"
    if fault["type"] == "extra_forbidden":
        inner: Any = model
        for part in fault["loc"][:-1]:  # of a section within the section
            annotation = inner.model_fields[part].annotation
            inner = next(iter(get_args(annotation)), annotation)  # of one that may be missing
        place = name.rpartition(".")[0]
        return f"{name} is not a parameter; {place} has {', '.join(inner.model_fields)}"
    rule = fault["msg"].replace("Input should be", "must be")
    rule = rule.replace("List should have", "must have")
    return f"{name} {rule}, got {fault['input']!r}"
