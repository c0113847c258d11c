"""What tests share: the stages, their parameters for the sample, and functions to look at files."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML
from toy import execute

from pipeline.mnist.idx import read_dataset_info, read_raw
from pipeline.mnist.model import NetworkParams
from pipeline.mnist.recipe import Recipe
from pipeline.mnist.tensors import load_digits, save_digits
from pipeline.paths import METRICS, PREDICTIONS, RAW, TEST
from pipeline.stages import evaluate, fetch, preprocess, report, train

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "data"
CLOTHES = ROOT / "tests" / "clothes"  # images of FashionMNIST
STAGES = {
    "fetch": fetch,
    "preprocess": preprocess,
    "train": train,
    "evaluate": evaluate,
    "report": report,
}

# a class name that attacks the page
HOSTILE = '$\\frac$<script>alert(1)</script><img src="http://x/" onerror=alert(1)>"&\''

SHIFT = {"rotation": 0, "scaling": 0, "shear": 0, "translation": 1, "elastic": 0}
MUON = {"learning_rate": 0.02, "momentum": 0.9}
NO_DISTORTION = SHIFT | {"translation": 0}
SAMPLE_PARAMS: dict[str, dict[str, Any]] = {
    "fetch": {
        "dataset": "sample",
        "sources": ["directory"],
        "directory": str(SAMPLE),
        "timeout": 60,
    },
    "preprocess": {"validation_size": 100, "seed": 1, "mean": 0.5, "std": 0.5},
    "train": {
        "seed": 1,
        "epochs": 2,
        "batch_size": 32,
        "optimizer": "adam",
        "learning_rate": 0.004,
        "muon": None,
        "schedule": "one-cycle",
        "warm_up": 0.0,
        "label_smoothing": 0.0,
        "distortion": SHIFT,
        "keep": "best",
        "calibrate": False,
        "device": "cpu",
        "checkpoint_every": 0,
    },
    "evaluate": {"calibration_bins": 15, "device": "cpu"},
    "report": {"mistakes": 5},
    "gate": {"metric": "accuracy", "minimum": 0.5, "largest_drop": 0.2, "significance": 0.001},
}
SHIPPED: dict[str, dict[str, Any]] = YAML(typ="safe").load(
    (ROOT / "params.yaml").read_text("utf-8")
)
# what is not named above is as it is shipped: a new parameter is known here, too
PARAMS = {name: values | SAMPLE_PARAMS[name] for name, values in SHIPPED.items()}
NETWORK = NetworkParams(**PARAMS["train"]["network"])
FRONTIER: dict[str, Any] = {  # what the shipped recipe has, and the sample's has not
    "optimizer": "muon",
    "muon": MUON,
    "schedule": "linear",
    "warm_up": 0.2,
    "label_smoothing": 0.1,
    "distortion": SHIPPED["train"]["distortion"],
}
RECIPE = Recipe(**{name: PARAMS["train"][name] for name in Recipe.model_fields})


def set_params(**changes: dict[str, Any]) -> None:
    """Write ./params.yaml with PARAMS, and `changes` for each section."""
    sections = {name: values | changes.get(name, {}) for name, values in PARAMS.items()}
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(sections, file)


def files_under(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def repro(folder: Path) -> tuple[list[str], list[str]]:
    """Run `dvc repro`; return the stages that ran, and those restored from the run cache."""
    output = execute(folder, "dvc", "repro")
    return re.findall(r"Running stage '(\w+)'", output), re.findall(
        r"Stage '(\w+)' is cached", output
    )


def edit_params(folder: Path, section: str, name: str, value: Any) -> None:
    yaml = YAML()
    content = yaml.load((folder / "params.yaml").read_text(encoding="utf-8"))
    assert content[section][name] != value
    content[section][name] = value
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(content, file)


def rename_last_class(name: str) -> None:
    """Rename it in all that the report stage reads, and add two mistakes of that class."""
    digits, info = load_digits(TEST)
    classes = (*info.classes[:-1], name)
    save_digits(TEST, digits, info.model_copy(update={"classes": classes, "dataset": name}))
    predictions = pd.read_csv(PREDICTIONS).assign(source=name)
    predictions.loc[:1, ["label", "prediction", "confidence"]] = [[9, 1, 1.0], [1, 9, 1.0]]
    predictions.to_csv(PREDICTIONS, index=False)
    metrics = json.loads(METRICS.read_text(encoding="utf-8"))
    metrics["per_class"][name] = metrics["per_class"].pop(info.classes[-1])
    METRICS.write_text(json.dumps(metrics), encoding="utf-8")


SAMPLE_FILES = {path.stem: gzip.decompress(path.read_bytes()) for path in SAMPLE.iterdir()}
LABELS = "t10k-labels-idx1-ubyte"


def assert_sample_is_fetched() -> None:
    assert {name: files_under(RAW)[name] for name in SAMPLE_FILES} == SAMPLE_FILES
    assert len(read_raw(RAW, "train").labels) == 600
    assert read_dataset_info(RAW).classes == tuple("0123456789")
    assert_no_partial_data()


def assert_no_partial_data() -> None:
    """Nothing half-written is left where fetch writes."""
    assert list(RAW.parent.glob("*.partial")) == []
