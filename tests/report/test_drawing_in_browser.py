"""What a reader draws, read by the network in the page: as PyTorch and `mnist predict` read it."""

import base64
import re
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import DESKTOP, NARROW, PHONE, Visit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import NETWORKS
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect
from torch import Tensor, nn

from benchmarks.drawing import count_same_drawings, encode, read_in_page, read_in_pytorch
from benchmarks.drawing import draw as write_drawings
from pipeline.mnist import model
from pipeline.mnist.idx import RAW_FILES, Preparation, UInt8Array, read_idx
from pipeline.mnist.inference import normalize
from pipeline.mnist.layers import load_trace
from pipeline.mnist.predict import predict_files
from pipeline.mnist.preparation import prepare
from pipeline.mnist.tensors import TensorInfo
from pipeline.mnist.tracing import trace_layers
from pipeline.paths import LAYERS, MODEL, RAW, REPORT
from pipeline.report.drawing import to_json
from pipeline.stages import evaluate, report, train

expect.set_options(timeout=60_000)  # no test fails because the machine is slow
INFO = TensorInfo(dataset="MNIST", classes=tuple("0123456789"), mean=0.5, std=0.5)
SEVEN = [(70, 70), (205, 62), (180, 130), (135, 235)]  # on the paper of 280 × 280


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished workspace; not to be changed."""
    folder = tmp_path_factory.mktemp("drawing") / "workspace"
    shutil.copytree(finished, folder)
    return folder


@pytest.fixture(scope="module")
def calculator(browser: Browser, folder: Path) -> Iterator[Page]:
    """The page, for its functions alone."""
    visit = Visit(browser, folder / REPORT, DESKTOP)
    yield visit.page
    visit.context.close()


@pytest.fixture(scope="module")
def images(folder: Path) -> UInt8Array:
    """1,000 real digits: the sample's 800, and those of its test split once more, turned."""
    train, test = (read_idx(folder / RAW / RAW_FILES[split][0], 3) for split in RAW_FILES)
    turned = [np.asarray(Image.fromarray(image).rotate(15)) for image in test]
    return np.concatenate([train, test, turned])


def test_a_thousand_digits_get_the_logits_that_pytorch_gives(
    calculator: Page, folder: Path, images: UInt8Array
) -> None:
    expected = read_in_pytorch(folder / MODEL, images)
    found, median = read_in_page(calculator, images)
    same = int((found.argmax(1) == expected.argmax(1)).sum())
    print(f"{same} classes are PyTorch's; a forward pass took {median:.1f} ms")  # for the reader
    assert same >= 999
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)


@pytest.mark.slow
def test_a_thousand_drawings_get_the_digit_that_predict_gives(
    calculator: Page, folder: Path, images: UInt8Array, tmp_path: Path
) -> None:
    with chdir(folder):
        assert count_same_drawings(calculator, write_drawings(images, tmp_path)) >= 995


def shapes() -> st.SearchStrategy[NDArray[np.uint8]]:
    """Parts of many greys, light on dark or dark on light, on plain or uneven ground.

    Their centres of mass are not in the middle between two pixels, where a last bit decides.
    """

    def draw(seed: int, height: int, width: int, dark: bool, grain: int) -> UInt8Array:
        rng = np.random.default_rng(seed)
        grey = rng.normal(30, grain, (height, width))
        for _ in range(rng.integers(1, 4)):
            top, left = rng.integers(0, height - 6), rng.integers(0, width - 6)
            part = grey[top : rng.integers(top + 5, height), left : rng.integers(left + 5, width)]
            part[:] = rng.integers(80, 250, part.shape)
        grey = grey.clip(0, 255).round()
        return (255 - grey if dark else grey).astype(np.uint8)

    return st.builds(
        draw,
        st.integers(0, 2**32 - 1),
        st.integers(12, 90),
        st.integers(12, 90),
        st.booleans(),
        st.sampled_from([0, 1, 6]),
    )


@pytest.mark.parametrize("preparation", ["centred", "fitted"])
@given(image=shapes())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_image_is_prepared_as_predict_prepares_it(
    calculator: Page, preparation: Preparation, image: UInt8Array
) -> None:
    expected = prepare(image.astype(float), "image", preparation).image
    height, width = image.shape
    found = calculator.evaluate(
        """([image, height, width, preparation]) => {
            const values = Uint8Array.from(atob(image), (character) => character.charCodeAt(0));
            return Array.from(prepare({ values, height, width }, preparation));
        }""",
        [encode(image.tobytes()), height, width, preparation],
    )
    distance = np.abs(np.reshape(found, (28, 28)) - expected.astype(int))
    assert distance.max() <= 1


class Residual(nn.Module):
    """Branches that meet again, and functions for layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.second, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.relu, self.dense = nn.ReLU(), nn.Linear(6 * 49, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.first(images))
        maps = self.relu(self.norm(self.second(maps)) + maps)
        maps = torch.tanh(nn.functional.max_pool2d(maps, 4))
        logits: Tensor = self.dense(nn.functional.dropout(maps.view(maps.size(0), -1), 0.1, False))
        return logits


ACTIVATIONS = (nn.ReLU(), nn.LeakyReLU(0.1), nn.ELU(0.7), nn.SiLU(), nn.Sigmoid(), nn.Tanh())


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """Layers of maps, then layers of numbers; each of random settings."""
    layers: list[nn.Module] = []
    channels = 1

    def pick(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    for _ in range(draw(st.integers(0, 3))):
        kernel, groups = (pick(1, 2, 3), pick(1, 3)), pick(1, channels)
        made = groups * draw(st.integers(1, 4))
        padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
        stride, dilation = (pick(1, 2), pick(1, 2)), (pick(1, 2), pick(1, 2))
        layers.append(
            nn.Conv2d(
                channels, made, kernel, stride, padding, dilation, groups, bias=draw(st.booleans())
            )
        )
        channels = made
        extra = [
            nn.BatchNorm2d(channels),
            nn.MaxPool2d(2, stride=pick(1, 2), padding=pick(0, 1), ceil_mode=draw(st.booleans())),
            nn.AvgPool2d((2, 1), stride=1),
            nn.Dropout2d(),
            nn.AdaptiveAvgPool2d(1),
        ]
        layers += [pick(*extra), pick(*ACTIVATIONS)]
        if isinstance(layers[-2], nn.AdaptiveAvgPool2d):
            break
        side = nn.Sequential(*layers).eval()(torch.zeros(2, 1, 28, 28)).shape[-2:]
        if min(side) < 7:
            break
    layers.append(nn.Flatten())
    for _ in range(draw(st.integers(0, 2))):
        width = draw(st.integers(1, 40))
        layers += [nn.LazyLinear(width, bias=draw(st.booleans())), nn.BatchNorm1d(width)]
        layers.append(pick(*ACTIVATIONS))
    return nn.Sequential(*layers, nn.LazyLinear(10))


def shake(network: nn.Module) -> None:
    """Give norms what a training gives them, and all weights and buffers values of their own."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                assert tensor is not None
                tensor.data.normal_(0, 0.5)


def check_network(page: Page, network: nn.Module) -> None:
    """Compare the page's logits of 20 images with PyTorch's, for the weights as float16."""
    images = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8)
    with torch.inference_mode():
        network(normalize(images, INFO))  # lazy layers get their size
    shake(network)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.half().float()
    network.eval()
    with torch.inference_mode():
        expected = (network(normalize(images, INFO)) / 0.5).numpy()
    trace = trace_layers(network, normalize(images, INFO), np.arange(20), temperature=0.5)
    assert trace.info.obstacle == ""
    pixels = images[:, 0].numpy()
    found, _ = read_in_page(page, pixels, str(to_json(trace, INFO, pixels[0])))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@given(networks())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_network_of_layers_is_computed_as_pytorch_does(
    calculator: Page, network: nn.Module
) -> None:
    check_network(calculator, network)


@pytest.mark.parametrize("make", [Residual, NETWORKS["batch normalization"], NETWORKS["dropout"]])
def test_functions_and_branches_are_computed_as_pytorch_does(calculator: Page, make: Any) -> None:
    torch.manual_seed(1)
    check_network(calculator, make())


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)],
        [
            nn.Conv2d(1, 2, (2, 5), stride=(1, 2), dilation=2),
            nn.AvgPool2d(2, 1),
            nn.Conv2d(2, 2, 3),
        ],
        [nn.Conv2d(1, 2, 5, padding=2), nn.BatchNorm2d(2), nn.MaxPool2d(3, 2, 1, ceil_mode=True)],
        [nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 3)],
    ],
)
def test_a_pixel_looks_at_what_its_value_depends_on(
    calculator: Page, layers: list[nn.Module]
) -> None:
    """It depends on the pixels that, changed one by one, change it."""
    torch.manual_seed(1)
    body = nn.Sequential(*layers).eval()
    network = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))
    for parameter in body.parameters():
        parameter.data.abs_()  # nothing cancels out
    image = torch.zeros(1, 1, 28, 28)
    brighter = torch.eye(784).reshape(784, 1, 28, 28) * 1000 + image
    with torch.inference_mode():
        network(brighter[:2])
        changed = (body(brighter) - body(image)).abs().sum(1, keepdim=True) > 1e-3
    trace = trace_layers(network.eval(), brighter[:2], np.arange(2))
    text = str(to_json(trace, INFO, np.zeros((28, 28), dtype=np.uint8)))
    shape = tuple(changed.shape[2:]) if changed.ndim == 4 else (1, 1)
    for row, column in [(0, 0), (shape[0] // 2, shape[1] // 2), (shape[0] - 1, shape[1] - 1)]:
        depends = changed[:, 0, row, column] if changed.ndim == 4 else changed[:, 0]
        places = np.flatnonzero(depends.numpy())
        found = calculator.evaluate(
            """([text, place, row, column]) => lookBack(
                readNetwork(text), place, { rows: [row, row], columns: [column, column] }
            )""",
            [text, len(layers), row, column],
        )
        for axis, of_place in (("rows", places // 28), ("columns", places % 28)):
            assert found[axis] == [of_place.min(), of_place.max()]


def draw(page: Page, points: list[tuple[int, int]]) -> None:
    """Draw a stroke with the mouse."""
    paper = page.locator("#pad")
    paper.scroll_into_view_if_needed()
    box = paper.bounding_box()
    assert box
    for number, (x, y) in enumerate(points):
        share = box["width"] / 280
        page.mouse.move(box["x"] + x * share, box["y"] + y * share, steps=8)
        if not number:
            page.mouse.down()
    page.mouse.up()


def read_predict(page: Page, folder: Path, file: Path) -> re.Pattern[str]:
    """What `mnist predict` says of the paper, as an image file."""
    url = page.evaluate("""() => {
        const canvas = Object.assign(document.createElement("canvas"), { width: 280, height: 280 });
        const context = canvas.getContext("2d");
        context.fillStyle = "#fff";
        context.fillRect(0, 0, 280, 280);
        context.drawImage(document.getElementById("pad"), 0, 0);
        return canvas.toDataURL();
    }""")
    file.write_bytes(base64.b64decode(url.partition(",")[2]))
    with chdir(folder):
        [[prediction], _] = predict_files([str(file)])
    return reading(prediction.prediction, prediction.confidence)


def reading(name: str, confidence: float) -> re.Pattern[str]:
    """What the page says, to a tenth of a per cent: its weights have 16 bits."""
    shares = "|".join(f"{100 * confidence + part:.1f}" for part in (-0.1, 0, 0.1))
    return re.compile(rf"^Reads as {name}, ({shares})\u00a0%\.$")


def heard(page: Page) -> Locator:
    """What a screen reader says."""
    return page.locator("#heard[role=status]")


def test_a_drawn_digit_is_read_as_predict_reads_it(
    visit: Visit, folder: Path, tmp_path: Path
) -> None:
    page = visit.page
    draw(page, SEVEN)
    expected = read_predict(page, folder, tmp_path / "drawn.png")
    expect(heard(page)).to_have_text(expected)
    best = page.locator(".odds .best")
    name, share = best.locator("th").inner_text(), best.locator("td").last.inner_text()
    assert heard(page).inner_text() == f"Reads as {name}, {share}."
    page.locator("#clear").click()
    expect(heard(page)).to_have_text("Nothing is drawn.")
    page.locator("#undo").click()
    expect(heard(page)).to_have_text(expected)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, NARROW])
def test_axe_finds_nothing_while_a_digit_is_read(
    browser: Browser, folder: Path, scheme: Any, size: tuple[int, int]
) -> None:
    visit = Visit(browser, folder / REPORT, size, color_scheme=scheme, reduced_motion="reduce")
    draw(visit.page, SEVEN)
    visit.page.locator("#noise").fill("40")
    expect(visit.page.locator("#reasons figcaption")).to_contain_text("What speaks for")
    assert visit.faults() == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") == size[0]
    assert visit.page.evaluate("document.getAnimations().length") == 0
    visit.context.close()


def test_a_finger_draws_and_does_not_scroll(browser: Browser, folder: Path) -> None:
    visit = Visit(browser, folder / REPORT, PHONE, has_touch=True)
    page = visit.page
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    assert box
    before = page.evaluate("scrollY")
    session = visit.context.new_cdp_session(page)
    for kind, y in [("touchStart", 60), *(("touchMove", y) for y in range(70, 220, 10))]:
        point = {"x": box["x"] + 140, "y": box["y"] + y}
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(heard(page)).to_have_text(re.compile("Reads as 1"))
    assert page.evaluate("scrollY") == before
    visit.context.close()


def test_a_digit_is_drawn_by_keyboard_alone(visit: Visit, folder: Path, tmp_path: Path) -> None:
    page = visit.page
    page.locator("#pad").focus()
    page.keyboard.press("Delete")
    expect(heard(page)).to_have_text("Nothing is drawn.")
    for _ in range(8):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    for _ in range(16):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(heard(page)).to_have_text(re.compile("Reads as 1"))
    page.keyboard.press("Shift+Tab")  # the mark of the pen is gone
    expect(heard(page)).to_have_text(read_predict(page, folder, tmp_path / "one.png"))
    page.locator("#pad").focus()
    page.keyboard.press("Backspace")
    expect(heard(page)).to_have_text("Nothing is drawn.")


def test_a_mistake_of_the_page_is_read_as_it_was_measured(visit: Visit) -> None:
    page = visit.page
    mistake = page.locator("#mistakes li").first
    read = mistake.locator("b").last.inner_text()
    confidence = float(mistake.locator(".confidence").inner_text().strip().removesuffix("\u00a0%"))
    measured = reading(read, confidence / 100)
    mistake.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(heard(page)).to_have_text(measured)
    expect(page.locator("#pad")).to_be_focused()
    assert page.url.endswith("#draw")
    draw(page, SEVEN)  # on top of it
    expect(heard(page)).not_to_have_text(measured)
    page.locator("#undo").click()
    expect(heard(page)).to_have_text(measured)


def test_every_test_image_of_the_page_is_read_as_it_was_measured(
    visit: Visit, folder: Path
) -> None:
    logits = torch.from_numpy(load_trace(folder / LAYERS).logits)
    for place, odds in enumerate(logits.double().softmax(1).numpy()):
        visit.page.locator("#starts button").nth(place).click()
        expect(heard(visit.page)).to_have_text(reading(str(odds.argmax()), odds.max()))


def test_a_drawing_that_changes_ends_the_work_on_the_one_before(visit: Visit) -> None:
    """Here a frame takes long, so that the work could go on before the new drawing is shown."""
    page = visit.page
    page.evaluate("""
        () => new Promise((resolve) => {
          const draw = requestAnimationFrame;
          window.requestAnimationFrame = (show) => setTimeout(() => draw(show), 300);
          const [first, second] = document.querySelectorAll("#changes canvas");
          new MutationObserver((_, observer) => {
            if (first.classList.contains("old") || !second.classList.contains("old")) return;
            observer.disconnect();
            document.getElementById("clear").click();
            setTimeout(resolve, 200);
          }).observe(first, { attributes: true });
          document.querySelector("#starts button").click();
        })
    """)
    assert page.locator("#changes canvas.old").count() == 4
    expect(heard(page)).to_have_text("Nothing is drawn.")


@pytest.mark.parametrize(
    ("name", "value"), [("noise", "100"), ("cover", "20"), ("rotate", "90"), ("shift", "10")]
)
def test_a_slider_tips_the_reading_and_says_so(visit: Visit, name: str, value: str) -> None:
    page = visit.page
    page.locator("#starts button").nth(4).click()
    expect(heard(page)).to_have_text(re.compile("Reads as 4, "))
    seen = page.locator("#seen")
    before = seen.evaluate("canvas => canvas.toDataURL()")
    page.locator(f"#{name}").fill(value)
    expect(heard(page)).to_have_text(
        re.compile("Reads as [^4], .* It reads 4 without the changes.")
    )
    assert seen.evaluate("canvas => canvas.toDataURL()") != before
    assert value in str(page.locator(f"#{name}").get_attribute("aria-valuetext"))
    page.locator("#changes button").click()
    expect(heard(page)).to_have_text(re.compile("Reads as 4, [^.]*\\.\\d\u00a0%.$"))
    assert seen.evaluate("canvas => canvas.toDataURL()") == before


def test_a_band_shows_where_a_slider_keeps_the_reading(visit: Visit) -> None:
    """Its end is where the reading tips."""
    page = visit.page
    page.locator("#starts button").nth(4).click()
    expect(page.locator("#noise + canvas:not(.old)")).to_have_attribute("width", "26")
    kept = page.locator("#noise + canvas").evaluate(
        """canvas => {
            const context = canvas.getContext("2d");
            const { data } = context.getImageData(0, 0, 26, 1);
            return Array.from({ length: 26 }, (_, place) => data[4 * place + 3] > 0);
        }"""
    )
    assert kept[0]
    for place, is_kept in list(enumerate(kept))[::5]:
        page.locator("#noise").fill(str(4 * place))
        said = r"Reads as 4, [^.]+\.\d\u00a0%\.$" if is_kept else "It reads 4 without"
        expect(heard(page)).to_have_text(re.compile(said))


def test_the_layers_have_the_shapes_of_the_lessons_table(visit: Visit) -> None:
    rows = visit.page.locator("table.layers tbody tr").all()
    table = [
        (row.locator("th").inner_text(), row.locator("td").nth(1).inner_text()) for row in rows
    ]
    found = [title.split(" ", 2)[1:] for title in visit.page.locator("#live h4").all_inner_texts()]
    assert [tuple(row) for row in found] == table
    assert "64\u00a0×\u00a07\u00a0×\u00a07" in dict(table).values()


def test_a_map_shows_its_filter_and_a_pixel_what_it_looks_at(visit: Visit, folder: Path) -> None:
    page = visit.page
    layer = page.locator("#live .layer").nth(3)
    sheet, note = layer.get_by_role("slider"), layer.locator(".note")
    sheet.focus()
    page.keyboard.press("ArrowRight")
    expect(note).to_contain_text(
        "Map 2 of 64. Its filter, 3\u00a0×\u00a03 for each of 32 maps, bias"
    )
    assert sheet.get_attribute("aria-valuetext") == note.inner_text()
    page.keyboard.press("End")
    expect(note).to_contain_text("Map 64 of 64.")
    page.keyboard.press("Home")
    for key in ["Shift+ArrowUp"] * 14 + ["Shift+ArrowLeft"] * 14 + ["Shift+ArrowDown"] * 2:
        page.keyboard.press(key)
    expect(note).to_contain_text("Row 3, column 1: ")
    expect(note).to_contain_text("It looks at rows 2–9, columns 1–5 of the drawing.")
    page.locator("#live .layer").nth(1).get_by_role("slider").hover(position={"x": 3, "y": 3})
    first = page.locator("#live .layer").nth(1).locator(".note")
    expect(first).to_contain_text("Map 1 of 32. conv1’s filter, 3\u00a0×\u00a03, bias")
    expect(first).to_contain_text("Row 1, column 1: ")
    expect(first).to_contain_text("It looks at rows 1–3, columns 1–3 of the drawing.")
    weights = page.locator("#live .layer").nth(0).locator(".weights")
    assert weights.evaluate("canvas => [canvas.width, canvas.height]") == [5, 5]


def test_a_network_that_it_cannot_compute_is_named_and_shown_as_before(
    browser: Browser, finished_workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (model, train):
        monkeypatch.setattr(module, "build_network", lambda params, classes: NETWORKS["LSTM"]())
    for stage in (train, evaluate, report):
        stage.main()
    visit = Visit(browser, finished_workspace / REPORT, DESKTOP)
    section = visit.page.locator("#draw")
    expect(section).to_contain_text(
        "You cannot draw on this page, because it cannot compute this network: it calls the"
        " function mul, which this page cannot compute."
    )
    assert visit.page.locator("canvas, #network").count() == 0
    assert visit.page.locator(".softmax:visible").count() == 1
    assert visit.said == []
    visit.context.close()


def test_a_perceptron_reads_a_drawing_too(
    browser: Browser, finished_workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "batch normalization"
    for module in (model, train):
        monkeypatch.setattr(module, "build_network", lambda params, classes: NETWORKS[name]())
    for stage in (train, evaluate, report):
        stage.main()
    visit = Visit(browser, finished_workspace / REPORT, DESKTOP)
    page = visit.page
    draw(page, SEVEN)
    expected = read_predict(page, finished_workspace, tmp_path / "drawn.png")
    expect(heard(page)).to_have_text(expected)
    titles = page.locator("#live h4").all_inner_texts()
    assert titles == ["1. flatten 784", "2. dense1 32", "3. norm 32", "4. relu 32", "5. dense2 10"]
    notes = page.locator("#live .note").all_inner_texts()
    assert notes[1].startswith("Number 1 of 32. Its 784 weights, bias ")
    assert notes[3].startswith("Number 1 of 32. dense1’s 784 weights, bias ")
    assert notes[4].startswith("Number 1 of 10, for 0. Its 32 weights, bias ")
    assert visit.said == []
    visit.context.close()


def test_a_network_that_gives_other_numbers_here_is_not_shown(
    browser: Browser, finished_workspace: Path
) -> None:
    text = REPORT.read_text(encoding="utf-8")
    REPORT.write_text(re.sub(r'"temperature":[\d.]+', '"temperature":0.1', text), encoding="utf-8")
    visit = Visit(browser, finished_workspace / REPORT, DESKTOP)
    expect(visit.page.locator("#draw")).to_contain_text("your browser computes other numbers")
    assert visit.page.locator("#draw canvas:visible").count() == 0
    assert visit.said == []
    visit.context.close()


def test_without_its_script_there_is_nothing_to_draw_on(browser: Browser, folder: Path) -> None:
    visit = Visit(browser, folder / REPORT, DESKTOP, java_script_enabled=False)
    assert visit.page.locator("#draw:visible, a[href='#draw']:visible").count() == 0
    visit.context.close()


def test_clothes_are_read_in_their_own_form_and_by_name(
    browser: Browser, clothes: Path, tmp_path: Path
) -> None:
    visit = Visit(browser, clothes / REPORT, DESKTOP)
    page = visit.page
    draw(page, [(60, 40), (220, 40), (220, 240), (60, 240), (60, 40)])
    expected = read_predict(page, clothes, tmp_path / "drawn.png")
    expect(heard(page)).to_have_text(expected)
    assert page.get_by_text("20 × 20").count() == 0
    assert visit.said == []
    visit.context.close()
