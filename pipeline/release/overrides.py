"""A worktree's params.yaml: values changed, checked, and the data folder that they name."""

import functools
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
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


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """['train.seed=2'] → {'train.seed': 2}, values read as YAML; raise ParamsError."""
    changes: dict[str, Any] = {}
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


def apply_overrides(path: Path, changes: Mapping[str, Any]) -> None:
    """Set values in params.yaml and leave all else of it as it is; raise ParamsError for what it
    has not.
    """
    if not changes:
        return
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # no line is broken
    known = flatten(read_yaml(path))  # raises for what is not YAML
    content = yaml.load(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        if name not in known:
            alike = [other for other in known if other.startswith(name.partition(".")[0] + ".")]
            raise ParamsError(
                f"--set {name}={value}: {path.name} has no parameter {name}; it has"
                f" {', '.join(alike or content)}"
            )
        *sections, last = name.split(".")
        functools.reduce(dict.__getitem__, sections, content)[last] = value
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)


def validate_params(tree: Path, stages: Collection[str]) -> None:
    """Let the stages' own models judge params.yaml; what is up to date has run with it before."""
    ours = sorted(
        stage for stage in stages if (tree / "pipeline" / "stages" / f"{stage}.py").is_file()
    )
    if not ours:
        return
    command = [
        sys.executable,
        "-P",
        params_program.__file__,
        *ours,
    ]  # -P and PYTHONPATH: the code of `tree`, not of this folder
    variables = subprocess_environment() | {"PYTHONPATH": str(tree)}
    result = subprocess.run(command, cwd=tree, env=variables, capture_output=True, text=True)
    if result.returncode:
        last = result.stderr.strip().rpartition("\n")[2]
        raise ParamsError(
            result.stderr.strip().removeprefix("error: ") if result.returncode == 2 else last
        )


def link_data_source(root: Path, tree: Path) -> None:
    """Let the fetch stage find the person's own folder of data; what it reads there it checks."""
    folder = (read_yaml(tree / "params.yaml").get("fetch") or {}).get("directory")
    if isinstance(folder, str) and (root / folder).is_dir() and not (tree / folder).exists():
        (tree / folder).parent.mkdir(parents=True, exist_ok=True)
        (tree / folder).symlink_to((root / folder).resolve())
