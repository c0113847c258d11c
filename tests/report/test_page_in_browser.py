"""The report in a real browser, also checked for accessibility by axe-core."""

import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from browser import DESKTOP, NARROW, PHONE, Visit
from helpers import HOSTILE, rename_last_class, set_params
from playwright.sync_api import Browser, Page, expect

from pipeline.paths import PREDICTIONS, REPORT
from pipeline.stages import report

SHOWN = "#mistakes li:not([hidden])"


@pytest.fixture(scope="module")
def folder(finished_with_own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished workspace whose report shows every mistake; not to be changed."""
    folder = tmp_path_factory.mktemp("page") / "workspace"
    shutil.copytree(finished_with_own, folder)
    with chdir(folder):
        set_params(report={"mistakes": 1000})
        report.main()
    return folder


@pytest.fixture
def mistakes(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / PREDICTIONS).query("label != prediction and source == 'sample'")


def press_until(page: Page, key: str, selector: str) -> None:
    """Press the key until the element has the focus."""
    for _ in range(300):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{selector} cannot be reached by {key}")


def test_it_opens_from_disk_asks_for_nothing_and_says_nothing(visit: Visit) -> None:
    """The fixture checks for every test that the page loads nothing and logs nothing."""
    broken = visit.page.evaluate(
        "Array.from(document.images).filter(i => !i.hidden && !i.naturalWidth).length"
    )
    assert (visit.page.locator("img").count() > 100, broken) == (True, 0)
    assert visit.page.locator("svg").count() == 6


def test_the_gallery_is_filtered_by_keyboard(visit: Visit, mistakes: pd.DataFrame) -> None:
    page = visit.page
    assert page.locator(SHOWN).count() == len(mistakes)
    press_until(page, "Tab", "#label")
    page.keyboard.type("8")
    expected = mistakes.query("label == 8")
    assert page.locator(SHOWN).count() == len(expected) > 0
    assert page.locator("#shown").inner_text() == f"{len(expected)} shown"
    press_until(page, "Tab", "#prediction")
    prediction = int(expected["prediction"].iloc[0])
    page.keyboard.type(str(prediction))
    count = (expected["prediction"] == prediction).sum()
    assert page.locator(SHOWN).count() == count
    assert set(page.locator(SHOWN).locator("img").evaluate_all("all => all.map(i => i.alt)")) == {
        f"8 read as {prediction}"
    }
    press_until(page, "Tab", "button[type=reset]")
    page.keyboard.press("Enter")
    expect(page.locator("#shown")).to_have_text(f"{len(mistakes)} shown")
    assert page.locator(SHOWN).count() == len(mistakes)


def test_an_error_in_the_confusion_matrix_leads_to_its_images(visit: Visit) -> None:
    cell = ".confusion a"
    press_until(visit.page, "Tab", cell)
    count = int(visit.page.locator(cell).first.inner_text())
    visit.page.keyboard.press("Enter")
    assert visit.page.url.endswith("#mistakes")
    assert visit.page.locator(SHOWN).count() == count
    assert visit.page.locator("#label").input_value() == visit.page.locator(
        cell
    ).first.get_attribute("data-label")


def test_another_digit_goes_through_the_network_by_keyboard(visit: Visit) -> None:
    page = visit.page
    press_until(page, "Tab", "input[name=example]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    shown = page.locator("[data-example]:not([hidden])").evaluate_all(
        "all => all.map(e => e.dataset.example)"
    )
    assert set(shown) == {"2"}
    assert page.locator(".softmax:visible .best th").inner_text() == "2"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_axe_finds_nothing_at_all(
    browser: Browser, folder: Path, scheme: Any, size: tuple[int, int]
) -> None:
    visit = Visit(browser, folder / REPORT, size, color_scheme=scheme)
    visit.page.evaluate(
        "document.querySelectorAll('details').forEach(details => details.open = true)"
    )
    assert visit.faults() == []
    visit.context.close()


@pytest.mark.parametrize("size", [DESKTOP, PHONE, NARROW])
def test_nothing_is_wider_than_the_screen(
    browser: Browser, folder: Path, size: tuple[int, int]
) -> None:
    visit = Visit(browser, folder / REPORT, size)
    visit.page.evaluate(
        "document.querySelectorAll('details').forEach(details => details.open = true)"
    )
    assert visit.page.evaluate("document.documentElement.scrollWidth") == size[0]
    visit.context.close()


@pytest.mark.parametrize("width", [1280, 1100, 900])
def test_every_column_of_clothes_is_seen(browser: Browser, clothes: Path, width: int) -> None:
    """Their names are long; at 1100 pixels the tenth column was cut off."""
    visit = Visit(browser, clothes / REPORT, (width, 900))
    matrix = visit.page.locator(".scroll:has(.confusion)")
    assert matrix.locator("th[scope=col]").count() == 10
    assert matrix.evaluate("scroll => scroll.scrollWidth - scroll.clientWidth") == 0
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    visit.context.close()


def test_clothes_are_no_digits(browser: Browser, clothes: Path) -> None:
    visit = Visit(browser, clothes / REPORT, PHONE)
    text = visit.page.locator("body").inner_text()
    assert "One article of clothing on its way through" in text
    assert "digit" not in text.lower()
    assert visit.page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    visit.context.close()


def test_colours_follow_the_scheme(browser: Browser, folder: Path) -> None:
    inks = []
    for scheme in ("light", "dark"):
        visit = Visit(browser, folder / REPORT, DESKTOP, color_scheme=scheme)
        inks.append(visit.page.locator("svg text").first.evaluate("e => getComputedStyle(e).fill"))
        visit.context.close()
    assert inks[0] != inks[1]


def test_without_its_script_everything_can_be_read(
    browser: Browser, folder: Path, mistakes: pd.DataFrame
) -> None:
    visit = Visit(browser, folder / REPORT, DESKTOP, java_script_enabled=False)
    assert visit.page.locator("#mistakes li:visible").count() == len(mistakes)
    assert visit.page.locator(".softmax:visible").count() == 1
    visit.context.close()


def test_a_hostile_class_name_does_nothing(browser: Browser, finished_workspace: Path) -> None:
    rename_last_class(HOSTILE)
    report.main()
    file = finished_workspace / REPORT
    visit = Visit(browser, file, PHONE)
    assert (visit.loaded(), visit.said) == ([file.as_uri()], [])
    assert visit.page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    visit.context.close()
