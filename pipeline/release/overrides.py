"""A worktree's params.yaml: values changed, values checked, and the data folder that it names."""

import functools
import re
import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.errors import ParamsError
from pipeline.files import atomic_write
from pipeline.params import parse_yaml
from pipeline.release import params_program
from pipeline.repository.dvc_files import flatten, read_yaml
from pipeline.repository.processes import subprocess_environment

PARAMS_FILE = "params.yaml"

Changes = dict[str, Any]  # the new values of some parameters, by names such as train.seed


def parse_overrides(texts: Iterable[str]) -> Changes:
    """['train.seed=2'] → {'train.seed': 2}, values read as YAML; raise ParamsError."""
    changes: Changes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[^\s.]+(\.[^\s.]+)+", name):
            raise ParamsError(
                f"--set {text}: must be SECTION.NAME=VALUE, such as train.learning_rate=0.002"
            )
        if name in changes:
            raise ParamsError(f"--set {text}: {name} is set twice; set it once")
        changes[name] = parse_yaml(value, f"--set {text}: {value}")
    return changes


def apply_overrides(path: Path, changes: Changes) -> None:
    """Change values in params.yaml and leave everything else of it as it is.

    Raises ParamsError if the file has no such parameter.
    """
    if not changes:
        return
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # no line is broken
    known = flatten(read_yaml(path))  # raises for what is not YAML
    content = yaml.load(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        if not any(f"{other}.".startswith(f"{name}.") for other in known):  # it, or within it
            section = name.partition(".")[0]
            of_section = [other for other in known if other.startswith(f"{section}.")]
            raise ParamsError(
                f"--set {name}={value}: {path.name} has no parameter {name}; it has"
                f" {', '.join(of_section or content)}"
            )
        *sections, last = name.split(".")
        functools.reduce(dict.__getitem__, sections, content)[last] = value
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)


def validate_params(tree: Path, stages: Collection[str]) -> None:
    """Check the sections of these stages with the stages' own models; raise ParamsError.

    A stage without a module in pipeline/stages has no model and is left out.
    """
    checked = sorted(
        stage for stage in stages if (tree / "pipeline" / "stages" / f"{stage}.py").is_file()
    )
    if not checked:
        return
    # PYTHONPATH and -P: the models are those of `tree`, which may be another commit's.
    command = [sys.executable, "-P", params_program.__file__, *checked]
    variables = subprocess_environment() | {"PYTHONPATH": str(tree)}
    result = subprocess.run(command, cwd=tree, env=variables, capture_output=True, text=True)
    if result.returncode:
        errors = result.stderr.strip()
        is_params_error = result.returncode == ParamsError.exit_code
        last_line = errors.rpartition("\n")[2]  # of a traceback
        raise ParamsError(errors.removeprefix("error: ") if is_params_error else last_line)


def link_data_source(root: Path, tree: Path) -> None:
    """Link the folder that fetch.directory names, if Git does not have it.

    The fetch stage checks what it reads there.
    """
    folder = (read_yaml(tree / PARAMS_FILE).get("fetch") or {}).get("directory")
    if isinstance(folder, str) and (root / folder).is_dir() and not (tree / folder).exists():
        (tree / folder).parent.mkdir(parents=True, exist_ok=True)
        (tree / folder).symlink_to((root / folder).resolve())
