"""Parameters: what is valid, and the line that says what is not."""

from pathlib import Path
from typing import Any

import pytest
from helpers import MUON, PARAMS, ROOT, STAGES, set_params
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.errors import ParamsError
from pipeline.params import Params, load_params, parse_yaml, validate
from pipeline.release.gate import GateParams
from pipeline.stages.evaluate import EvaluateParams
from pipeline.stages.fetch import FetchParams
from pipeline.stages.preprocess import PreprocessParams
from pipeline.stages.report import ReportParams
from pipeline.stages.train import TrainParams

MODELS: dict[str, type[Params]] = {
    "fetch": FetchParams,
    "preprocess": PreprocessParams,
    "train": TrainParams,
    "evaluate": EvaluateParams,
    "report": ReportParams,
    "gate": GateParams,
}


def write(text: str) -> None:
    Path("params.yaml").write_text(text, encoding="utf-8")


def message(section: str = "train") -> str:
    with pytest.raises(ParamsError) as error:
        load_params(section, MODELS[section])
    return str(error.value)


@pytest.mark.parametrize("section", MODELS)
def test_the_shipped_params_are_valid(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    load_params(section, MODELS[section])


@pytest.mark.parametrize(
    ("section", "name", "value", "rule"),
    [
        ("train", "batch_size", 0, "must be greater than 0, got 0"),
        ("train", "batch_size", True, "must be a valid integer, got True"),
        ("train", "batch_size", "64", "must be a valid integer, got '64'"),
        ("train", "batch_size", 64.0, "must be a valid integer, got 64.0"),
        ("train", "batch_size", None, "must be a valid integer, got None"),
        ("train", "epochs", -1, "must be greater than 0, got -1"),
        ("train", "learning_rate", float("nan"), "must be a finite number, got nan"),
        ("train", "learning_rate", float("inf"), "must be a finite number, got inf"),
        ("train", "learning_rate", "1e-3", "must be a valid number, got '1e-3'"),
        ("train", "learning_rate", True, "must be a valid number, got True"),
        (
            "train",
            "schedule",
            "cosine",
            "must be 'constant', 'linear' or 'one-cycle', got 'cosine'",
        ),
        ("train", "device", "tpu", "must be 'auto', 'cpu', 'cuda' or 'mps', got 'tpu'"),
        ("train", "seed", 2**32, "must be less than 4294967296, got 4294967296"),
        ("train", "muon", 0.02, "must be a valid dictionary or instance of MuonParams, got 0.02"),
        ("train", "label_smoothing", 1, "must be less than 1, got 1"),
        ("train", "epochs", "half", "must be a valid number, got 'half'"),
        ("preprocess", "validation_size", 0, "must be greater than 0, got 0"),
        ("preprocess", "std", 0, "must be greater than 0, got 0"),
        ("fetch", "sources", [], "must have at least 1 item after validation, not 0, got []"),
        ("fetch", "dataset", "CIFAR", "must be 'MNIST', 'FashionMNIST' or 'sample', got 'CIFAR'"),
        ("fetch", "timeout", 0, "must be greater than 0, got 0"),
        ("evaluate", "calibration_bins", 0, "must be greater than 0, got 0"),
        ("report", "mistakes", -1, "must be greater than or equal to 0, got -1"),
    ],
)
def test_a_bad_value_is_named_with_the_rule(
    workspace: Path, section: str, name: str, value: Any, rule: str
) -> None:
    set_params(**{section: {name: value}})
    assert message(section) == f"params.yaml: {section}.{name} {rule}"


def test_all_faults_of_a_section_are_told_at_once(workspace: Path) -> None:
    write(
        "train: {seed: 1, epochs: 0, batch_size: 64, learning_rate: 2, schedule: constant, keep:"
        " best, decay: 1}"
    )
    assert message().splitlines() == [
        "params.yaml: train.epochs must be greater than 0, got 0",
        "error: params.yaml: train.optimizer is missing; add it",
        "error: params.yaml: train.learning_rate must be less than or equal to 1, got 2",
        "error: params.yaml: train.muon is missing; add it",
        "error: params.yaml: train.warm_up is missing; add it",
        "error: params.yaml: train.label_smoothing is missing; add it",
        "error: params.yaml: train.distortion is missing; add it",
        "error: params.yaml: train.precision is missing; add it",
        "error: params.yaml: train.own_weight is missing; add it",
        "error: params.yaml: train.calibrate is missing; add it",
        "error: params.yaml: train.device is missing; add it",
        "error: params.yaml: train.checkpoint_every is missing; add it",
        "error: params.yaml: train.network is missing; add it",
        "error: params.yaml: train.decay is not a parameter; train has seed, epochs, batch_size,"
        " optimizer, learning_rate, muon, schedule, warm_up, label_smoothing, distortion,"
        " precision, own_weight, keep, calibrate, device, checkpoint_every, network",
    ]


def test_a_fault_within_a_section_names_the_whole_way(workspace: Path) -> None:
    set_params(train={"network": {"hidden": 0, "width": 3}})
    assert message().splitlines() == [
        "params.yaml: train.network.hidden must be greater than 0, got 0",
        "error: params.yaml: train.network.width is not a parameter; train.network has hidden",
    ]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"muon": MUON}, "muon must be null with the optimizer adam"),
        (
            {"optimizer": "muon"},
            "muon must have learning_rate and momentum with the optimizer muon",
        ),
        ({"warm_up": 0.2}, "warm_up must be 0 with the schedule one-cycle, got 0.2"),
        (
            {"warm_up": 0.2, "schedule": "constant"},
            "warm_up must be 0 with the schedule constant, got 0.2",
        ),
    ],
)
def test_parameters_that_mean_nothing_together_are_refused(
    workspace: Path, changes: dict[str, Any], fault: str
) -> None:
    set_params(train=changes)
    assert message() == f"params.yaml: train.{fault}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "params.yaml is empty; it must hold one section per stage"),
        ("- 1", "params.yaml is a list; it must hold one section per stage"),
        ("evaluate: {}", "params.yaml: the section 'train' is missing; add it"),
        ("train: 3", "params.yaml: train must be a section of names and values, got 3"),
        ("train:", "params.yaml: train must be a section of names and values, got None"),
        ("train: [", "params.yaml is not valid YAML: "),
        ("train: {a: 1}\ntrain: {a: 2}", "params.yaml is not valid YAML: "),
        ("train: !!python/object/apply:os.system [true]", "params.yaml is not valid YAML: "),
        ("train: \x00", "params.yaml is not valid YAML: "),
    ],
)
def test_a_malformed_file_is_one_line(workspace: Path, text: str, expected: str) -> None:
    write(text)
    assert message().startswith(expected)
    assert "\n" not in message()


def test_bytes_that_are_no_text_are_one_line(workspace: Path) -> None:
    Path("params.yaml").write_bytes(b"\xff\xfe\x00train")
    assert message().startswith("params.yaml is not valid YAML: ")


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2", b"\xff\xfe", "a: !!python/name:os.mkdir"])
def test_any_yaml_is_read_or_refused_in_one_line_that_names_it(text: str | bytes) -> None:
    assert parse_yaml(b"rate: 1e-3", "dvc.lock") == {"rate": 0.001}
    assert parse_yaml("", "dvc.lock") is None
    with pytest.raises(ParamsError, match=r"^dvc.lock is not valid YAML: [^\n]+$"):
        parse_yaml(text, "dvc.lock")


def test_a_fault_names_the_file_and_the_section_it_is_in() -> None:
    with pytest.raises(ParamsError) as error:
        validate(ReportParams, {"mistakes": -1}, Path("other.yaml"), "a.b")
    assert str(error.value) == (
        "other.yaml: a.b.mistakes must be greater than or equal to 0, got -1"
    )


def test_a_missing_file_says_where_to_run(workspace: Path) -> None:
    Path("params.yaml").unlink()
    assert message() == "params.yaml is missing here; run from the folder that holds it"


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("1E-3", 0.001), ("1_0e-4", 0.001), (".5", 0.5)]
)
def test_numbers_are_read_as_dvc_reads_them(workspace: Path, text: str, value: float) -> None:
    from dvc.utils.serialize import load_yaml

    content = (
        Path("params.yaml")
        .read_text(encoding="utf-8")
        .replace("learning_rate: 0.004", f"learning_rate: {text}")
    )
    write(content)
    assert load_params("train", TrainParams).learning_rate == value
    assert load_yaml("params.yaml")["train"]["learning_rate"] == value


@pytest.mark.parametrize("text", ["yes", "on", "1:30", "2024-01-01", "0x", "~"])
def test_yaml_surprises_are_refused(workspace: Path, text: str) -> None:
    write(Path("params.yaml").read_text(encoding="utf-8").replace("epochs: 2", f"epochs: {text}"))
    assert message().startswith("params.yaml: train.epochs must be a valid number, got ")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_with_bad_params_touches_no_file(workspace: Path, stage: str) -> None:
    set_params(**{stage: {"unknown": 1}})
    with pytest.raises(ParamsError, match=rf"^params.yaml: {stage}\.unknown is not a parameter"):
        STAGES[stage].main()
    assert [path.name for path in workspace.iterdir()] == ["params.yaml"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
hostile = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@hostile
@given(section=st.sampled_from(sorted(PARAMS)), data=st.data(), value=values)
def test_any_value_is_taken_as_it_is_or_refused_by_name(
    workspace: Path, section: str, data: st.DataObject, value: Any
) -> None:
    name = data.draw(st.sampled_from(sorted(PARAMS[section])))
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump({section: PARAMS[section] | {name: value}}, file)
    try:
        loaded = load_params(section, MODELS[section])
    except ParamsError as error:
        faults = str(error).split("\nerror: ")
        assert all(
            fault.startswith((f"params.yaml: {section}.{name}", "params.yaml is not"))
            for fault in faults
        )
    else:
        assert loaded.model_dump()[name] == value


@hostile
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_refused_as_a_params_file(workspace: Path, content: bytes) -> None:
    Path("params.yaml").write_bytes(content)
    assert message().startswith("params.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "train: !!python/object/apply:os.mkdir [escaped]",
        "train: !!python/object/new:os.mkdir [escaped]",
        "train: !!python/name:os.mkdir",
        "!!python/object/apply:pathlib.Path.mkdir [escaped]: 1",
    ],
)
def test_no_yaml_tag_executes_anything(workspace: Path, text: str) -> None:
    write(text)
    assert message().startswith("params.yaml is not valid YAML")
    assert [path.name for path in workspace.iterdir()] == ["params.yaml"]
