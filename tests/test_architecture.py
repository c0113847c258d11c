"""The rooms of the package and what each may import; docs/architecture.md has the reasons.

Every import counts, those inside functions too.
"""

import ast
import re
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import ROOT

PACKAGE = ROOT / "pipeline"
ROOM_OF_CLI = "cli"


class Rule(NamedTuple):
    """What a room may import of the package besides itself and the root, and what it never may."""

    rooms: tuple[str, ...]
    never: tuple[str, ...]
    modules: tuple[str, ...] = ()  # of other rooms, one by one


DRIVERS = ("prefect", "dvc", "gto")
RULES = {
    "root": Rule((), ("torch", *DRIVERS)),
    "mnist": Rule((), DRIVERS),
    "report": Rule(
        (),
        ("torch", "sklearn", *DRIVERS),
        ("pipeline.mnist.idx", "pipeline.mnist.tensors", "pipeline.mnist.layers"),
    ),
    "stages": Rule(("mnist", "report"), DRIVERS),
    "repository": Rule((), ("torch", "prefect")),
    "orchestration": Rule(("repository",), ("torch", "dvc")),
    "release": Rule(("repository", "orchestration"), ("torch",)),
    "sweep": Rule(("repository", "orchestration", "release"), ("torch",)),
    ROOM_OF_CLI: Rule(
        ("mnist", "report", "stages", "repository", "orchestration", "release", "sweep"), ()
    ),
}


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room_of(module: str) -> str:
    _, *rooms, leaf = module.split(".")
    if leaf in ("add", "cli", "__main__") and not rooms:
        return ROOM_OF_CLI
    return rooms[0] if rooms else "root"


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the whole name of everything that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (ROOT / inner.replace(".", "/")).with_suffix(".py").is_file()
                yield node.lineno, inner if is_module else str(node.module)


def find_faults(path: Path) -> list[str]:
    module = name_of(path)
    room = room_of(module)
    rule = RULES[room]
    faults = []
    for line, imported in imports_of(path):
        where = f"{path.name}:{line} imports {imported}"
        if imported.split(".")[0] != "pipeline":
            faults += [where] * (imported.split(".")[0] in rule.never)
        elif room == "stages" and room_of(imported) == "stages":
            faults.append(f"{where}: stages know nothing of one another")
        elif room_of(imported) not in ("root", room, *rule.rooms) and imported not in rule.modules:
            faults.append(where)
    return faults


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_what_its_room_may(path: Path) -> None:
    assert find_faults(path) == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("mnist", "import prefect"),
        ("mnist", "from pipeline.stages.train import TrainParams"),
        ("stages", "def main() -> None:\n    from pipeline.stages import fetch"),
        ("report", "from pipeline.mnist.model import CNN"),
        ("repository", "from pipeline.orchestration.flow import run_graph"),
        ("orchestration", "import dvc.repo"),
        ("release", "from pipeline.mnist import model"),
        ("release", "import torch"),
    ],
)
def test_a_planted_import_is_found(
    room: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = tmp_path / "pipeline" / room / "planted.py"
    planted.parent.mkdir(parents=True)
    planted.write_text(line, encoding="utf-8")
    for path in modules():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
    monkeypatch.setattr("test_architecture.ROOT", tmp_path)
    assert len(find_faults(planted)) == 1


def importers(package: str) -> set[str]:
    return {
        name_of(path)
        for path in modules()
        for _, imported in imports_of(path)
        if imported.split(".")[0] == package
    }


def test_dvc_and_prefect_are_imported_where_they_are_driven() -> None:
    assert importers("dvc") == {
        "pipeline.repository.dvc_describe",
        "pipeline.repository.dvc_files",
        "pipeline.repository.dvc_place",
        "pipeline.repository.dvc_program",
        "pipeline.repository.dvc_rehearse",
        "pipeline.repository.dvc_update",
    }
    assert {name for name in importers("prefect") if room_of(name) == "release"} == {
        "pipeline.release.approval",
        "pipeline.release.candidate",
        "pipeline.release.retrain",
    }


def test_programs_that_run_by_their_path_import_nothing_of_the_package() -> None:
    programs = ("dvc_program", "dvc_describe", "dvc_place", "dvc_rehearse", "dvc_update")
    for name in ("supervisor", *programs):
        imported = [name for _, name in imports_of(PACKAGE / "repository" / f"{name}.py")]
        assert not [name for name in imported if name.startswith("pipeline")]


def test_a_modules_name_occurs_once() -> None:
    for folder in (PACKAGE, ROOT / "tests"):
        names = [path.stem for path in folder.rglob("*.py") if path.stem != "__init__"]
        stages = {"report"}  # pipeline/stages/report.py draws with the room of that name
        assert sorted(set(names) - stages) == sorted(name for name in names if name not in stages)


def test_nothing_named_like_a_package_lies_next_to_an_entry_point() -> None:
    """Prefect puts the folder of an entry point first on sys.path."""
    prefect = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    entry_points = re.findall(r"(pipeline/[\w/]+)/\w+\.py:\w+", prefect)
    assert set(entry_points) == {"pipeline/release", "pipeline/orchestration"}
    installed = set(packages_distributions())
    for folder in entry_points:
        assert not {path.stem for path in (ROOT / folder).glob("*.py")} & installed


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 260
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name


def test_tests_mirror_the_package() -> None:
    """tests/ROOM/test_MODULE.py tests pipeline/ROOM/MODULE.py."""
    for room in RULES.keys() - {"root", ROOM_OF_CLI}:
        modules_of_room = {path.stem for path in (PACKAGE / room).glob("*.py")}
        for path in (ROOT / "tests" / room).glob("test_*.py"):
            name = path.stem.removeprefix("test_").removesuffix("_in_browser")
            assert name in modules_of_room, path
