"""Forks of this repository: another network by one file, a new parameter by two places."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from helpers import repro, set_params
from networks import NETWORKS
from PIL import Image
from toy import execute

from pipeline.errors import ParamsError
from pipeline.mnist import model
from pipeline.mnist.idx import UInt8Array
from pipeline.mnist.layers import load_trace
from pipeline.mnist.predict import predict_files
from pipeline.paths import LAYERS, METRICS, PREDICTIONS, REPORT
from pipeline.release.overrides import apply_overrides, parse_overrides, validate_params
from pipeline.stages import evaluate, report, train

MODEL_FILE = Path("pipeline/mnist/model.py")
MLP = """
class MLP(nn.Module):
    def __init__(self, params: NetworkParams, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, params.hidden)
        self.norm = nn.BatchNorm1d(params.hidden)
        self.out = nn.Linear(params.hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.hidden(images.flatten(1)))))


def build_network("""


def replace(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def changed_files(repository: Path) -> set[str]:
    return set(execute(repository, "git", "diff", "--name-only", "HEAD").splitlines())


def read_page(path: Path) -> str:
    """The page without its scripts and the network that it carries."""
    return re.sub("<script.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def predict(repository: Path, file: str) -> None:
    [row] = json.loads(execute(repository, "python", "-m", "pipeline", "predict", "--json", file))
    assert row["prediction"] in "0123456789"


RESULTS = {"dvc.lock", "reports/history.csv", "reports/metrics.json"}  # what DVC's run changes


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_is_trained_evaluated_reported_and_read(
    digits: UInt8Array, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in (model, train):
        monkeypatch.setattr(module, "build_network", lambda params, classes: NETWORKS[name]())
    set_params(train={"epochs": 1})
    for stage in (train, evaluate, report):
        stage.main()
    page = read_page(REPORT)
    assert f"{type(NETWORKS[name]()).__name__} on 200 test images" in page
    assert not re.search("filters of the first convolution|One step of it|CNN", page)
    assert ("it cannot compute this network" in page) == (
        name not in ("dropout", "batch normalization")
    )
    Image.fromarray(digits[0]).save("0.png")
    [[prediction], errors] = predict_files(["0.png"])
    assert errors == []
    if name != "noise":
        trace, expected = load_trace(LAYERS), pd.read_csv(PREDICTIONS)
        assert list(trace.logits.argmax(1)) == list(expected["prediction"][trace.examples])
        assert prediction.confidence == pytest.approx(expected["confidence"][0], abs=0.05)


def test_another_network_changes_its_file_only(repository: Path) -> None:
    replace(
        repository / MODEL_FILE,
        ("\ndef build_network(", MLP),
        ("    return CNN(params, classes)", "    return MLP(params, classes)"),
    )
    assert repro(repository) == (["train", "evaluate", "report"], [])
    assert changed_files(repository) == {str(MODEL_FILE), *RESULTS}
    assert json.loads((repository / METRICS).read_text())["accuracy"] > 0.5
    predict(repository, "docs/five.jpg")
    page = read_page(repository / REPORT)
    assert "MLP on 200 test images" in page
    assert all(name in page for name in ("BatchNorm1d", ">hidden<", ">norm<", ">out<"))
    assert not re.search("filters of the first convolution|One step of it|CNN|onvolution", page)


def test_a_parameter_of_the_network_is_changed_and_checked_as_any_other(repository: Path) -> None:
    """As `mnist retrain --set` and `mnist sweep` do it."""
    apply_overrides(repository / "params.yaml", parse_overrides(["train.network.hidden=64"]))
    validate_params(repository, ["train"])
    apply_overrides(repository / "params.yaml", {"train.network.hidden": 0})
    with pytest.raises(ParamsError, match=r"^params.yaml: train\.network\.hidden must be greater"):
        validate_params(repository, ["train"])


def test_a_new_parameter_is_two_places(repository: Path) -> None:
    """One of the network, and one of the training; the model's file carries the network's."""
    replace(
        repository / MODEL_FILE,
        ("class NetworkParams(Params):", "class NetworkParams(Params):\n    dropout: float"),
        ("relu3=nn.ReLU(inplace=True)", "relu3=nn.Dropout(params.dropout)"),
    )
    replace(
        repository / "pipeline/mnist/recipe.py",
        ("class Recipe(Params):", "class Recipe(Params):\n    decay: float"),
        ("fused=True", "weight_decay=recipe.decay, fused=True"),
    )
    replace(
        repository / "params.yaml",
        ("train:\n", "train:\n  decay: 0.01\n"),
        ("  network:\n", "  network:\n    dropout: 0.25\n"),
    )
    options = ("-S", "train.network.hidden=64", "-S", "train.decay=0")
    output = execute(repository, "dvc", "exp", "run", *options)
    assert re.findall(r"Running stage '(\w+)'", output) == ["train", "evaluate", "report"]
    edited = {str(MODEL_FILE), "pipeline/mnist/recipe.py", "params.yaml"}
    assert changed_files(repository) == {*edited, *RESULTS}
    page = (repository / REPORT).read_text(encoding="utf-8")
    for name, value in {"network dropout": "0.25", "network hidden": "64", "decay": "0"}.items():
        assert f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' in page
    replace(repository / "params.yaml", ("hidden: 64", "hidden: 32"), ("t: 0.25", "t: 0.5"))
    predict(repository, "docs/five.jpg")  # with the network that the model's file describes
