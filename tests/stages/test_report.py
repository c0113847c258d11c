"""The report stage: what the page shows, its bytes and what it refuses."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import HOSTILE, files_under, rename_last_class, set_params
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import DataError
from pipeline.mnist.idx import Digits
from pipeline.mnist.layers import load_trace, save_trace
from pipeline.mnist.tensors import load_digits, save_digits
from pipeline.paths import (
    DATA_COUNTS,
    HISTORY,
    LAYERS,
    METRICS,
    MISTAKES,
    PREDICTIONS,
    RELIABILITY,
    REPORT,
    TEST,
)
from pipeline.stages import evaluate, preprocess, report


class Page(HTMLParser):
    """Collects tags, ids, the addresses that a browser would load, and the texts of pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.alternatives: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(value or "")
            if name == "alt":
                self.alternatives.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def wrong() -> pd.DataFrame:
    return pd.read_csv(PREDICTIONS).query("label != prediction")


def test_the_page_shows_the_results_and_loads_nothing(finished_workspace: Path) -> None:
    text = REPORT.read_text(encoding="utf-8")
    page = Page(text)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"url\((?!#)|@import", text)
    assert f"{len(wrong())} of 200 sample test images are misread" in text
    top = wrong().sort_values("confidence", ascending=False).head(5)
    expected = [f"{row['label']} read as {row['prediction']}" for row in top.to_dict("records")]
    assert [words for words in page.alternatives if "read as" in words] == expected
    assert len(REPORT.read_bytes()) < 2_500_000


def test_every_picture_has_words_in_its_place_and_every_id_is_its_own(
    finished_workspace: Path,
) -> None:
    page = Page(REPORT.read_text(encoding="utf-8"))
    assert all(page.alternatives)
    assert len(page.alternatives) == page.tags.count("img")
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_the_figures_are_those_of_the_metrics(finished_workspace: Path) -> None:
    """They are copied, not computed again."""
    metrics = json.loads(METRICS.read_text(encoding="utf-8"))
    changed = metrics | {"f1": 0.1234, "loss": 7.6543, "expected_calibration_error": 0.4321}
    changed["per_class"]["3"]["recall"] = 0.2468
    METRICS.write_text(json.dumps(changed), encoding="utf-8")
    report.main()
    text = REPORT.read_text(encoding="utf-8")
    assert all(figure in text for figure in ("0.1234", "7.6543", "0.4321", "0.2468"))


def test_the_parameters_that_made_it_are_shown(finished_workspace: Path) -> None:
    text = REPORT.read_text(encoding="utf-8")
    for name, value in {
        "learning rate": "0.004",
        "schedule": "one-cycle",
        "validation size": "100",
    }.items():
        assert f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' in text


def test_smoothed_labels_are_said_to_raise_the_training_loss(finished_workspace: Path) -> None:
    sentence = "by heart. The training loss has a floor here, because labels are smoothed: 30.00 %"
    for smoothing in (0.0, 0.3):
        set_params(train={"label_smoothing": smoothing})
        report.main()
        words = " ".join(REPORT.read_text(encoding="utf-8").split())
        assert (sentence in words) == bool(smoothing)


def test_equal_inputs_give_equal_bytes_in_every_process(finished_workspace: Path) -> None:
    before = [path.read_bytes() for path in (REPORT, MISTAKES)]
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo", "LC_ALL": "C"}
        subprocess.run(
            [sys.executable, "-m", "pipeline.stages.report"], env=environment, check=True
        )
        assert [path.read_bytes() for path in (REPORT, MISTAKES)] == before


def test_it_starts_without_torch() -> None:
    program = (
        "import sys, pipeline.stages.report;assert not {'torch', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_one_epoch_one_bin_and_a_class_without_images_make_a_page(finished_workspace: Path) -> None:
    HISTORY.write_text("".join(HISTORY.read_text().splitlines(keepends=True)[:2]))
    RELIABILITY.write_text("lower,upper,images,confidence,accuracy\n0,1,200,0.9,0.8\n")
    trace = load_trace(LAYERS)
    outputs = {name: values[:3] for name, values in trace.outputs.items()}
    few, logits = trace.examples[:3], trace.logits[:3]
    save_trace(LAYERS, replace(trace, examples=few, logits=logits, outputs=outputs))
    report.main()
    assert REPORT.read_text(encoding="utf-8").count('name="example"') == 3


def test_no_mistakes_make_a_page_too(finished_workspace: Path) -> None:
    predictions = pd.read_csv(PREDICTIONS)
    predictions["prediction"] = predictions["label"]
    predictions.to_csv(PREDICTIONS, index=False)
    set_params(report={"mistakes": 0})
    report.main()
    assert "0 of 200 sample test images are misread" in REPORT.read_text(encoding="utf-8")
    assert "None: every image is read correctly" in REPORT.read_text(encoding="utf-8")
    with Image.open(MISTAKES) as sheet:
        assert sheet.format == "PNG"


@pytest.mark.slow
def test_a_thousand_mistakes_still_make_a_small_page(finished_workspace: Path) -> None:
    digits, info = load_digits(TEST)
    images, labels = np.concatenate([digits.images] * 6), np.concatenate([digits.labels] * 6)
    save_digits(TEST, Digits(images, labels), info)
    predictions = pd.concat([pd.read_csv(PREDICTIONS)] * 6)
    predictions["prediction"] = (predictions["label"] + 1) % 10
    predictions.to_csv(PREDICTIONS, index=False)
    set_params(report={"mistakes": 1000})
    report.main()
    assert REPORT.read_text(encoding="utf-8").count(" read as ") > 1000
    assert len(REPORT.read_bytes()) < 3 * 2**20


@pytest.mark.parametrize(
    "name", ["data.json", "metrics.json", "history.csv", "predictions.csv", "reliability.csv"]
)
def test_a_missing_or_damaged_input_is_one_line_and_leaves_the_page(
    finished_workspace: Path, name: str
) -> None:
    before = files_under(Path("reports"))["index.html"]
    path = Path("reports") / name
    path.write_bytes(b"")
    with pytest.raises(
        DataError,
        match=rf"^reports/{name} cannot be read \([^\n]+\); make it again: dvc repro --force",
    ):
        report.main()
    path.unlink()
    with pytest.raises(
        DataError, match=rf"^reports/{name} is missing; run the stages before this one"
    ):
        report.main()
    assert REPORT.read_bytes() == before


def test_own_images_have_a_section_of_their_own(own_workspace: Path) -> None:
    page = REPORT.read_text(encoding="utf-8")
    own = json.loads(METRICS.read_text())["own"]
    section = page[page.index('<section id="own">') : page.index('<section id="calibration">')]
    errors = len(wrong().query("source == 'own'"))
    assert f"{own['images']} of them are held out" in section
    assert f"{errors} of these are misread" in section
    assert f"{100 * own['accuracy']:.2f}" in section
    assert section.count("<li data-label") == min(errors, 5) > 0
    assert "<b>first</b>: its drawings are lighter than sample" in section


def test_a_page_without_own_images_has_no_such_section(finished_workspace: Path) -> None:
    assert 'id="own"' not in REPORT.read_text(encoding="utf-8")


def test_own_images_of_which_none_is_held_out_are_named_all_the_same(own_workspace: Path) -> None:
    set_params(preprocess={"own_test": 0.0})
    for stage in (preprocess, evaluate, report):
        stage.main()
    assert "None of them is held out yet" in REPORT.read_text(encoding="utf-8")


FIFTH = r"^(sample,f3351a8e\w+),.*$"  # row of the predictions


@pytest.mark.parametrize(
    ("path", "pattern", "damage", "reason"),
    [
        (PREDICTIONS, FIFTH, r"\1,4,seven,0.9", "row 5: prediction must be a valid integer, "),
        (PREDICTIONS, FIFTH, r"\1,4,,0.9", "row 5: prediction must be a finite number, got nan"),
        (PREDICTIONS, FIFTH, r"\1,4,10,0.9", "prediction must be less than 10, got 10"),
        (PREDICTIONS, FIFTH, "own,1,4,4,0.9", "it must have 200 rows of sample, got 199"),
        (PREDICTIONS, r"\Z", "own,1,4,4,0.9", "it must have 0 rows of own, got 1"),
        (PREDICTIONS, FIFTH, r"\1,-1,4,0.9", "row 5: label must be greater than or equal to 0, "),
        (PREDICTIONS, FIFTH, r"\1,4,4,1.5", "row 5: confidence must be less than or equal to 1"),
        (PREDICTIONS, "confidence$", "sureness", "row 1: confidence is missing"),
        (PREDICTIONS, r"confidence\n(.|\n)*", "confidence\n", "it has no rows"),
        (HISTORY, "^2,.*$", "2,fast,1,1,0.9", "row 2: learning_rate must be a valid number, una"),
        (HISTORY, "^2,.*$", "2,0.1,inf,1,0.9", "row 2: train_loss must be a finite number, got i"),
        (RELIABILITY, ",images,", ",pictures,", "row 1: images is missing"),
        (METRICS, '"accuracy": [^,]*', '"accuracy": "high"', "accuracy must be a valid number, "),
        (METRICS, '"recall": [^,]*', '"recall": [1]', "recall must be a valid number, got [1]"),
        (METRICS, '"per_class"', '"by_class"', "per_class is missing"),
        (METRICS, r"(.|\n)*", "[]", "must be an object, got []"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_place(
    finished_workspace: Path, path: Path, pattern: str, damage: str, reason: str
) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(pattern, damage, text, count=1, flags=re.MULTILINE), encoding="utf-8")
    with pytest.raises(DataError) as error:
        report.main()
    assert str(error.value).startswith(f"{path} cannot be read ({reason}")
    assert str(error.value).endswith("); make it again: dvc repro --force evaluate")
    assert "\n" not in str(error.value)


CELLS = ("", "word", "nan", "-1", "0", "0.5", "7", "10", "200", "1e308", "1e999", "9" * 30, "True")
READ = (DATA_COUNTS, HISTORY, METRICS, PREDICTIONS, RELIABILITY, LAYERS, TEST)


def change_cell(content: bytes, place: int, value: str) -> bytes:
    """Put a value in the place of what is between two separators of CSV or JSON."""
    parts = re.split(rb"([,\n:{}]+)", content)
    parts[place * 2 % len(parts)] = value.encode()
    return b"".join(parts)


def change_bytes(content: bytes, place: int, value: str) -> bytes:
    place %= len(content)
    return content[:place] + value.encode() + content[place + len(value) :]


def cut(content: bytes, place: int, value: str) -> bytes:
    return content[: place % len(content)]


damages = st.tuples(
    st.sampled_from(READ),
    st.sampled_from([change_cell, change_bytes, cut]),
    st.integers(0, 4000),
    st.sampled_from(CELLS) | st.text(max_size=3),
)


@given(damages)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_file_makes_a_page_or_one_line(
    finished_workspace: Path, damage: tuple[Path, Callable[[bytes, int, str], bytes], int, str]
) -> None:
    make_page_or_line(*damage)


@pytest.mark.slow
@given(damages)
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_many_damaged_files_make_a_page_or_one_line(
    finished_workspace: Path, damage: tuple[Path, Callable[[bytes, int, str], bytes], int, str]
) -> None:
    make_page_or_line(*damage)


def make_page_or_line(
    path: Path, change: Callable[[bytes, int, str], bytes], place: int, value: str
) -> None:
    content, before = path.read_bytes(), REPORT.read_bytes()
    path.write_bytes(change(content, place, value))
    try:
        report.main()
    except DataError as error:
        assert "\n" not in str(error)
        assert REPORT.read_bytes() == before
    finally:
        path.write_bytes(content)


def test_html_in_a_class_name_is_text(finished_workspace: Path) -> None:
    rename_last_class(HOSTILE)
    report.main()
    text = REPORT.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("script") == 2  # the page's, and the network
    network = re.search(r'<script type="application/json" id="network">(.*?)</script>', text)
    assert network
    assert json.loads(network[1])["classes"][-1] == HOSTILE
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert f"{HOSTILE} read as 1" in page.alternatives
    assert "<script>alert" not in text
