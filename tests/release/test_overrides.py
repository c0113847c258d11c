"""Changes to parameters: how they are read, made in params.yaml and checked."""

import shutil
from pathlib import Path

import pytest
from helpers import ROOT

from pipeline.errors import ParamsError
from pipeline.release.overrides import apply_overrides, parse_overrides, validate_params
from pipeline.repository.dvc_files import read_yaml


def test_changes_are_read_as_yaml() -> None:
    texts = [
        "train.learning_rate=2e-3",
        "fetch.sources=[npm]",
        "train.keep=best",
        "a.b.c=x=y",
        "train.device=yes",
    ]
    assert parse_overrides(texts) == {
        "train.learning_rate": 0.002,
        "fetch.sources": ["npm"],
        "train.keep": "best",
        "a.b.c": "x=y",
        "train.device": "yes",
    }


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (
            ["train.seed"],
            "--set train.seed: must be SECTION.NAME=VALUE, such as train.learning_rate=0.002",
        ),
        (["seed=1"], "--set seed=1: must be SECTION.NAME=VALUE"),
        (["train.=1"], "--set train.=1: must be SECTION.NAME=VALUE"),
        (
            ["train.seed=1", "train.seed=2"],
            "--set train.seed=2: train.seed is set twice; set it once",
        ),
        (["train.seed=[1"], "--set train.seed=[1: [1 is not valid YAML: "),
    ],
)
def test_a_wrong_change_is_refused_in_one_line(texts: list[str], reason: str) -> None:
    with pytest.raises(ParamsError) as raised:
        parse_overrides(texts)
    assert str(raised.value).startswith(reason)
    assert "\n" not in str(raised.value)


def test_only_the_changed_lines_of_params_yaml_change(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "params.yaml", path)
    apply_overrides(path, {"train.learning_rate": 0.002, "train.keep": "best"})
    before, after = ((ROOT / "params.yaml").read_text().splitlines(), path.read_text().splitlines())
    changed = [line for old, line in zip(before, after, strict=True) if old != line]
    assert [line.split("#")[0].split() for line in changed] == [
        ["learning_rate:", "0.002"],
        ["keep:", "best"],
    ]
    assert changed[1].endswith("# the last epoch, or the best by validation accuracy")


def test_a_section_within_a_section_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """As the notebook's optimizer needs it, and the way back."""
    path = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "params.yaml", path)
    before = read_yaml(path)["train"]
    apply_overrides(path, parse_overrides(["train.optimizer=adam", "train.muon=null"]))
    assert read_yaml(path)["train"] == before | {"optimizer": "adam", "muon": None}
    muon = "train.muon={learning_rate: 0.02, momentum: 0.9}"
    apply_overrides(path, parse_overrides(["train.optimizer=muon", muon]))
    assert read_yaml(path)["train"] == before


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("train.lr", "train.seed, train.epochs"),
        ("trian.seed", "fetch, "),
        ("train.seed.x", "train.seed"),
    ],
)
def test_an_unknown_parameter_is_refused_in_one_line(tmp_path: Path, name: str, known: str) -> None:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    with pytest.raises(ParamsError) as raised:
        apply_overrides(tmp_path / "params.yaml", {name: 1})
    assert str(raised.value).startswith(
        f"--set {name}=1: params.yaml has no parameter {name}; it has {known}"
    )
    assert (tmp_path / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


# All of its own code that an older commit is asked for
OLD_ERRORS = """
class ParamsError(Exception):
    pass
"""
OLD_PARAMS = """
import json
from pathlib import Path
from pipeline.errors import ParamsError

class Params:
    pass

def load_params(section, model):
    if json.loads(Path("params.yaml").read_text())[section] != model.allowed:
        raise ParamsError(f"{section} is wrong")
"""
OLD_STAGE = """
from pipeline.params import Params

class OldParams(Params):
    allowed = 1
"""


def test_params_are_checked_by_the_code_of_an_older_commit(tmp_path: Path) -> None:
    files = {"__init__.py": "", "errors.py": OLD_ERRORS, "params.py": OLD_PARAMS}
    files |= {f"stages/{name}.py": OLD_STAGE for name in ("first", "second")}
    for name, content in files.items():
        path = tmp_path / "pipeline" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "params.yaml").write_text('{"first": 1, "second": 1}')
    validate_params(tmp_path, ["second", "first", "without a module"])
    (tmp_path / "params.yaml").write_text('{"first": 2, "second": 2}')
    with pytest.raises(ParamsError) as raised:
        validate_params(tmp_path, ["second", "first"])
    assert str(raised.value) == "first is wrong\nerror: second is wrong"
