"""The files that stages hand on are named once, and are those of dvc.yaml."""

import ast
from pathlib import Path
from typing import Any

from helpers import ROOT
from ruamel.yaml import YAML

from pipeline import paths

NAMED = {name: value for name, value in vars(paths).items() if isinstance(value, Path)}


def outputs(stage: dict[str, Any]) -> list[str]:
    """An entry is a path, or a path with its settings."""
    entries = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def test_the_paths_are_the_outputs_of_dvc_yaml() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    declared = [output for stage in stages.values() for output in outputs(stage)]
    assert sorted(map(str, NAMED.values())) == sorted(
        [*declared, str(paths.OWN), str(paths.CHECKPOINTS)]
    )


def test_no_other_module_repeats_a_path() -> None:
    literals = set(map(str, NAMED.values()))
    repeated = [
        f"{module.relative_to(ROOT)}: {node.value}"
        for module in (ROOT / "pipeline").rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in literals
        if module != ROOT / "pipeline" / "paths.py"
    ]
    assert repeated == []
