"""The evaluate stage: its metrics, predictions and traces, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import NETWORK, files_under, set_params

from pipeline.errors import DataError
from pipeline.mnist.idx import Digits, pixel_hash
from pipeline.mnist.inference import load_to_device
from pipeline.mnist.layers import load_trace
from pipeline.mnist.metrics import calibration_error
from pipeline.mnist.model import load_model, save_model
from pipeline.mnist.tensors import TensorInfo, load_digits, save_digits
from pipeline.paths import LAYERS, METRICS, MODEL, OWN_TEST, PREDICTIONS, RELIABILITY, TEST
from pipeline.stages import evaluate


def test_the_metrics_are_those_of_the_predictions(finished_workspace: Path) -> None:
    metrics, predictions = json.loads(METRICS.read_text()), pd.read_csv(PREDICTIONS)
    assert list(predictions.columns) == ["source", "image", "label", "prediction", "confidence"]
    assert set(predictions["source"]) == {"sample"}
    assert list(predictions["image"]) == list(map(pixel_hash, load_digits(TEST)[0].images))
    correct = predictions["label"] == predictions["prediction"]
    assert metrics["accuracy"] == pytest.approx(correct.mean())
    recalls = correct.groupby(predictions["label"]).mean()
    precisions = correct.groupby(predictions["prediction"]).mean()
    assert metrics["recall"] == pytest.approx(recalls.mean(), abs=1e-6)
    for digit in recalls.index:
        assert metrics["per_class"][str(digit)]["recall"] == pytest.approx(recalls[digit], abs=1e-6)
    for digit in precisions.index:
        assert metrics["per_class"][str(digit)]["precision"] == pytest.approx(
            precisions[digit], abs=1e-6
        )
    fractions = [value for name, value in metrics.items() if name not in ("loss", "per_class")]
    assert all(0 <= value <= 1 for value in fractions)


def test_the_predictions_are_the_models(finished_workspace: Path) -> None:
    network, info = load_model(MODEL)
    test = load_to_device(TEST, torch.device("cpu"))
    with torch.inference_mode():
        logits = network((test.images / 255 - info.mean) / info.std)
    predictions, metrics = pd.read_csv(PREDICTIONS), json.loads(METRICS.read_text())
    assert np.array_equal(predictions["prediction"], logits.argmax(1))
    np.testing.assert_allclose(predictions["confidence"], logits.softmax(1).amax(1), atol=2e-6)
    assert metrics["loss"] == pytest.approx(F.cross_entropy(logits, test.labels).item(), abs=1e-5)


def test_equal_inputs_give_equal_bytes(finished_workspace: Path) -> None:
    before = files_under(Path("reports"))
    evaluate.main()
    assert files_under(Path("reports")) == before


def test_an_image_of_each_class_read_correctly_and_the_least_certain_one_are_traced(
    finished_workspace: Path,
) -> None:
    predictions = pd.read_csv(PREDICTIONS)
    *of_classes, last = load_trace(LAYERS).examples
    assert predictions["confidence"][last] == predictions["confidence"].min()
    rows = predictions.iloc[of_classes]
    assert list(rows["label"]) == list(range(10))
    correct = predictions.index[predictions["label"] == predictions["prediction"]]
    first = [correct[predictions["label"][correct] == digit].min() for digit in range(10)]
    assert list(rows.index) == first


def test_the_trace_ends_in_the_predictions(finished_workspace: Path) -> None:
    trace = load_trace(LAYERS)
    logits = torch.from_numpy(trace.logits)
    predictions = pd.read_csv(PREDICTIONS).iloc[trace.examples]
    assert list(logits.argmax(1)) == list(predictions["prediction"])
    np.testing.assert_allclose(logits.softmax(1).amax(1), predictions["confidence"], atol=2e-6)


def test_the_reliability_table_gives_the_calibration_error(finished_workspace: Path) -> None:
    table, metrics = pd.read_csv(RELIABILITY), json.loads(METRICS.read_text())
    assert (len(table) <= 15, table["images"].sum()) == (True, 200)
    assert metrics["expected_calibration_error"] == pytest.approx(
        calibration_error(table), abs=1e-6
    )


def test_a_class_never_predicted_is_counted_without_a_warning(finished_workspace: Path) -> None:
    network, _ = load_model(MODEL)
    *_, biases = network.parameters()
    biases.data[:9] = -1e6
    save_model(MODEL, network, NETWORK, load_digits(TEST)[1])
    evaluate.main()
    metrics = json.loads(METRICS.read_text())
    assert metrics["per_class"]["0"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert metrics["per_class"]["9"]["recall"] == 1.0


@pytest.mark.parametrize("name", ["models/model.safetensors", "data/tensors/test.safetensors"])
def test_a_missing_or_damaged_input_is_one_line_and_leaves_the_results(
    finished_workspace: Path, name: str
) -> None:
    before = files_under(Path("reports"))
    Path(name).write_bytes(Path(name).read_bytes()[:1000])
    with pytest.raises(DataError, match=rf"^{name} is not what the \w+ stage writes [^\n]+$"):
        evaluate.main()
    Path(name).unlink()
    with pytest.raises(
        DataError, match=rf"^{name} is missing; run the stage before this one: dvc repro \w+$"
    ):
        evaluate.main()
    assert files_under(Path("reports")) == before


def test_a_model_of_other_data_is_refused(finished_workspace: Path) -> None:
    network, _ = load_model(MODEL)
    other = TensorInfo(dataset="FashionMNIST", classes=tuple("abcdefghij"), mean=0.5, std=0.5)
    save_model(MODEL, network, NETWORK, other)
    with pytest.raises(
        DataError, match=r"was trained on other data than data/tensors/test.safetensors holds"
    ):
        evaluate.main()


def test_fewer_bins_change_only_the_calibration_error(finished_workspace: Path) -> None:
    before = json.loads(METRICS.read_text())
    set_params(evaluate={"calibration_bins": 2})
    evaluate.main()
    after = json.loads(METRICS.read_text())
    assert [name for name in before if before[name] != after[name]] == [
        "expected_calibration_error"
    ]


def test_own_images_are_measured_apart_from_the_data_sets(own_workspace: Path) -> None:
    metrics, predictions = json.loads(METRICS.read_text()), pd.read_csv(PREDICTIONS)
    own = predictions[predictions["source"] == "own"]
    assert list(own["image"]) == list(map(pixel_hash, load_digits(OWN_TEST)[0].images))
    correct = own["label"] == own["prediction"]
    assert metrics["own"]["images"] == len(own) > 20
    assert metrics["own"]["accuracy"] == pytest.approx(correct.mean(), abs=1e-6)
    recalls = correct.groupby(own["label"]).mean()
    assert metrics["own"]["recall"] == pytest.approx(recalls.mean(), abs=1e-6)
    of_sample = predictions[predictions["source"] == "sample"]
    assert metrics["accuracy"] == (of_sample["label"] == of_sample["prediction"]).mean()


def test_own_images_change_no_metric_of_the_data_sets(own_workspace: Path) -> None:
    before = json.loads(METRICS.read_text())
    digits, info = load_digits(OWN_TEST)
    save_digits(OWN_TEST, Digits(digits.images[:0], digits.labels[:0]), info)
    evaluate.main()
    after = json.loads(METRICS.read_text())
    assert after == {name: value for name, value in before.items() if name != "own"}
    assert len(pd.read_csv(PREDICTIONS)) == 200


def test_own_images_of_few_classes_have_the_mean_of_those(own_workspace: Path) -> None:
    digits, info = load_digits(OWN_TEST)
    few = digits.labels < 2
    save_digits(OWN_TEST, Digits(digits.images[few], digits.labels[few]), info)
    evaluate.main()
    own = pd.read_csv(PREDICTIONS).query("source == 'own'")
    recalls = (own["label"] == own["prediction"]).groupby(own["label"]).mean()
    metrics = json.loads(METRICS.read_text())["own"]
    assert metrics["recall"] == pytest.approx(recalls.mean(), abs=1e-6)
    assert len(recalls) == 2
