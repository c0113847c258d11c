"""Any image in the form of MNIST's or FashionMNIST's, and what is refused."""

import io
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import DataError
from pipeline.mnist.idx import RAW_FILES, Preparation, UInt8Array, read_idx
from pipeline.mnist.preparation import prepare, read_image
from pipeline.paths import RAW


@pytest.fixture
def seven() -> UInt8Array:
    """A drawing as MNIST has it: 20 pixels tall, its centre of mass at pixel 14 both ways."""
    image = np.zeros((28, 28), dtype=np.uint8)
    image[6:9, 9:21] = 255
    image[9:26, 16:19] = 255
    return prepare(image.astype(float), "seven", "centred").image


def distance(name: str, expected: UInt8Array) -> float:
    """The mean difference between the image made for the model and `expected`, in grey levels."""
    return float(
        np.abs(prepare(read_image(name), name, "centred").image.astype(float) - expected).mean()
    )


def test_mnists_own_images_stay_as_they_are(digits: UInt8Array) -> None:
    """Some of the 200 are not: MNIST's makers placed or scaled them a little differently."""
    same = [
        np.array_equal(prepare(digit.astype(float), "digit", "centred").image, digit)
        for digit in digits
    ]
    assert sum(same) >= 170


@pytest.mark.parametrize("inverted", [False, True])
def test_fashion_mnists_own_images_stay_as_they_are(clothes: Path, inverted: bool) -> None:
    """Faint edges of some are trimmed."""
    images = read_idx(clothes / RAW / RAW_FILES["test"][0], 3).astype(float)
    given = 255 - images if inverted else images
    made = np.array([prepare(image, "clothes", "fitted").image for image in given])
    assert sum(np.array_equal(one, image) for one, image in zip(made, images, strict=True)) >= 75
    assert np.abs(made - images).mean() < 3


def test_clothes_in_a_photograph_are_cut_out_and_fill_the_frame(clothes: Path) -> None:
    images = read_idx(clothes / RAW / RAW_FILES["test"][0], 3)
    differences = []
    for image in images[:20]:
        page = 240 + np.random.default_rng(1).normal(0, 1, (600, 700))
        page[90:370, 200:480] -= np.asarray(Image.fromarray(image).resize((280, 280))) * 0.9
        made, is_plain = prepare(page, "clothes", "fitted")
        assert is_plain
        rows, columns = (np.flatnonzero(made.any(axis=axis)) for axis in (1, 0))
        assert max(np.ptp(rows), np.ptp(columns)) == 27
        differences.append(np.abs(made.astype(float) - image).mean())
    assert np.mean(differences) < 20  # 48 in the form of digits


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_kind_of_pixel_gives_the_same_drawing(
    seven: UInt8Array, tmp_path: Path, mode: str
) -> None:
    image = Image.fromarray(255 - seven)
    if mode == "I;16":
        image = Image.fromarray((255 - seven).astype(np.uint16) * 257)
    elif mode in ("I", "F"):
        image = Image.fromarray(
            (255 - seven).astype(np.int32 if mode == "I" else np.float32)
            / (1 if mode == "I" else 9)
        )
    else:
        image = image.convert(mode)
    name = str(tmp_path / "seven.tiff")
    image.save(name)
    assert distance(name, seven) < (12 if mode == "1" else 1)


@pytest.mark.parametrize("ink", [0, 255])
def test_ink_on_a_transparent_background_is_seen(
    seven: UInt8Array, tmp_path: Path, ink: int
) -> None:
    image = Image.merge("LA", [Image.new("L", (28, 28), ink), Image.fromarray(seven)])
    name = str(tmp_path / "seven.png")
    image.save(name)
    assert distance(name, seven) < 1


def test_a_photograph_turned_by_its_camera_is_turned_back(
    seven: UInt8Array, tmp_path: Path
) -> None:
    image = Image.fromarray(255 - seven).resize((560, 560)).rotate(90)
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90 degrees clockwise
    name = str(tmp_path / "seven.jpg")
    image.save(name, exif=exif)
    assert distance(name, seven) < 12


def test_a_small_digit_in_the_corner_of_a_grey_page_is_found(
    seven: UInt8Array, tmp_path: Path
) -> None:
    light = 220 + np.random.default_rng(1).normal(0, 4, (400, 900))
    light[300:356, 820:876] -= np.asarray(Image.fromarray(seven).resize((56, 56))) * 0.6
    name = str(tmp_path / "page.jpg")
    Image.fromarray(light.clip(0, 255).astype(np.uint8)).save(name, quality=80)
    assert distance(name, seven) < 12


def bomb() -> bytes:
    """A PNG whose header claims 100,000 × 100,000 pixels."""
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, format="PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = (100_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def truncated() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (50, 50), dtype=np.uint8)).save(
        buffer, format="PNG"
    )
    return buffer.getvalue()[:1000]


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) (w) file\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty; it must be an image file"),
        (b"not an image", "is not an image that can be read, such as PNG or JPEG"),
        (POSTSCRIPT, "is not an image that can be read, such as PNG or JPEG"),
        (bomb(), "is too large: at most 89,478,485 pixels are read"),
        (truncated(), "is damaged: "),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "is "),
        (b"GIF89a" + bytes(20), "is "),
        (b"II*\x00" + b"\xff" * 50, "is "),
        (b"\xff\xd8\xff\xe0" + bytes(50), "is "),
        (b"P5 3 3 255 x", "is "),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    path = tmp_path / "wrong.png"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        prepare(read_image(str(path)), str(path), "centred")
    assert str(error.value).startswith(f"{path} {expected}")
    assert "\n" not in str(error.value)


def test_a_file_without_end_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.mnist.preparation.MAX_BYTES", 10_000)
    with pytest.raises(DataError, match=r"^/dev/zero is too large: at most 10,000 bytes are read$"):
        read_image("/dev/zero")


def test_a_large_image_of_16_bits_is_made_smaller(seven: UInt8Array, tmp_path: Path) -> None:
    name = str(tmp_path / "large.tiff")
    Image.fromarray((255 - seven).astype(np.uint16).repeat(100, 0).repeat(100, 1) * 257).save(name)
    assert read_image(name).shape == (2000, 2000)
    assert distance(name, seven) < 12


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "DDS", "AVIF"]),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8),
    length=st.integers(1, 2000),
    preparation=st.sampled_from(["centred", "fitted"]),
)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path: Path,
    kind: str,
    changes: list[tuple[int, int]],
    length: int,
    preparation: Preparation,
) -> None:
    content = bytearray(encode(kind))
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path / "damaged"
    path.write_bytes(content[:length])
    try:
        assert prepare(read_image(str(path)), str(path), preparation).image.shape == (28, 28)
    except DataError as error:
        assert "\n" not in str(error)


@cache
def encode(kind: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def test_a_blank_image_is_one_line(tmp_path: Path) -> None:
    name = str(tmp_path / "blank.png")
    Image.new("L", (50, 50), 255).save(name)
    with pytest.raises(
        DataError, match=r"blank.png is blank: nothing stands out from its background$"
    ):
        prepare(read_image(name), name, "centred")


@pytest.mark.parametrize("preparation", ["centred", "fitted"])
@pytest.mark.parametrize("shape", [(1, 60), (60, 1), (2, 2), (3, 2000)])
def test_an_odd_shape_is_a_drawing_still(shape: tuple[int, int], preparation: Preparation) -> None:
    grey = np.zeros(shape)
    grey[shape[0] // 2, shape[1] // 2] = 255
    assert prepare(grey, "odd", preparation).image.max() == 255
