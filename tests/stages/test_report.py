"""The report stage: what the page shows, its bytes and what it refuses."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from helpers import HOSTILE, files_under, rename_last_class, set_params
from PIL import Image

from pipeline.errors import DataError
from pipeline.mnist.layers import load_trace, save_trace
from pipeline.paths import HISTORY, LAYERS, METRICS, MISTAKES, PREDICTIONS, RELIABILITY, REPORT
from pipeline.stages import report


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
    assert len(REPORT.read_bytes()) < 3 * 2**20


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
    save_trace(LAYERS, replace(trace, examples=trace.examples[:3], outputs=outputs))
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
    predictions = pd.concat([pd.read_csv(PREDICTIONS)] * 6)
    predictions["prediction"] = (predictions["label"] + 1) % 10
    predictions.to_csv(PREDICTIONS, index=False)
    set_params(report={"mistakes": 1000})
    report.main()
    assert REPORT.read_text(encoding="utf-8").count(" read as ") > 1000
    assert len(REPORT.read_bytes()) < 3 * 2**20


@pytest.mark.parametrize(
    "name", ["metrics.json", "history.csv", "predictions.csv", "reliability.csv"]
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


def test_html_in_a_class_name_is_text(finished_workspace: Path) -> None:
    rename_last_class(HOSTILE)
    report.main()
    text = REPORT.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("script") == 1
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert f"{HOSTILE} read as 1" in page.alternatives
    assert "<script>alert" not in text
