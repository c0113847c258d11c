import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from helpers import files_under, set_params

from pipeline.data import load_digits, save_digits
from pipeline.errors import DataError
from pipeline.stages import report

REPORT = Path("reports/index.html")
PREDICTIONS = Path("reports/predictions.csv")


class Page(HTMLParser):
    """Collects the addresses a browser would load, and the texts in place of pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.alternatives: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(value or "")
            if name == "alt":
                self.alternatives.append(value or "")


def test_the_page_shows_the_results_and_loads_nothing(finished_workspace: Path) -> None:
    text = REPORT.read_text(encoding="utf-8")
    page = Page(text)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"url\((?!#)|@import", text)
    wrong = pd.read_csv(PREDICTIONS).query("label != prediction")
    assert f"{len(wrong)} of 200 sample test images are mistaken" in text
    top = wrong.sort_values("confidence", ascending=False).head(5)
    assert page.alternatives == [f"{row['label']} read as {row['prediction']}" for row in top.to_dict("records")]


def test_equal_inputs_give_equal_bytes_in_every_process(finished_workspace: Path) -> None:
    before = REPORT.read_bytes()
    for seed in ("1", "2"):
        subprocess.run([sys.executable, "-m", "pipeline.stages.report"], env={"PYTHONHASHSEED": seed}, check=True)
        assert REPORT.read_bytes() == before


def test_no_mistakes_make_a_page_too(finished_workspace: Path) -> None:
    predictions = pd.read_csv(PREDICTIONS)
    predictions["prediction"] = predictions["label"]
    predictions.to_csv(PREDICTIONS, index=False)
    set_params(report={"mistakes": 0})
    report.main()
    assert "0 of 200 sample test images are mistaken" in REPORT.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["metrics.json", "history.csv", "predictions.csv"])
def test_a_missing_or_damaged_input_is_one_line_and_leaves_the_page(finished_workspace: Path, name: str) -> None:
    before = files_under(Path("reports"))["index.html"]
    path = Path("reports") / name
    path.write_bytes(b"")
    with pytest.raises(
        DataError, match=rf"^reports/{name} cannot be read \([^\n]+\); make it again: dvc repro --force"
    ):
        report.main()
    path.unlink()
    with pytest.raises(DataError, match=rf"^reports/{name} is missing; run the stages before this one"):
        report.main()
    assert REPORT.read_bytes() == before


def test_html_in_a_class_name_is_text(finished_workspace: Path) -> None:
    hostile = '$\\frac$<script>alert(1)</script><img src="http://x/" onerror=alert(1)>"&\''
    digits, info = load_digits(report.TEST)
    names = (*info.classes[:-1], hostile)
    save_digits(report.TEST, digits, info.model_copy(update={"classes": names, "dataset": hostile}))
    predictions = pd.read_csv(PREDICTIONS)
    predictions.loc[:1, ["label", "prediction", "confidence"]] = [[9, 1, 1.0], [1, 9, 1.0]]
    predictions.to_csv(PREDICTIONS, index=False)
    metrics = json.loads(report.METRICS.read_text(encoding="utf-8"))
    metrics["per_class"][hostile] = metrics["per_class"].pop("9")
    report.METRICS.write_text(json.dumps(metrics), encoding="utf-8")
    report.main()
    text = REPORT.read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert f"{hostile} read as 1" in page.alternatives
