"""Any image file as one digit in the form of MNIST's images.

MNIST's digits are light on black, fill a box of 20 × 20 pixels, their proportions kept, and have
their centre of mass in the middle of 28 × 28 (http://yann.lecun.com/exdb/mnist).
"""

import io
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.ndimage import label

from pipeline.errors import DataError
from pipeline.mnist.idx import IMAGE_SIZE, UInt8Array

STANDARD_INPUT = "-"
BOX = 20  # pixels, both ways
MOST_BYTES = 2**28  # of a file
LARGEST = 2000  # pixels, both ways: what is larger is made smaller first
LEAST_CONTRAST = 16  # of 255 levels of grey; paler is blank
SPECK = 1 / 20  # of the largest part of the drawing; what is smaller is no part of it
RUNS_A_PROGRAM = {"EPS"}  # Pillow gives these to Ghostscript
GreyImage = NDArray[np.float64]


class Drawing(NamedTuple):
    """One digit as MNIST has it, uint8 [28, 28], and whether it stands on a plain background."""

    image: UInt8Array
    plain: bool


def read_image(name: str) -> GreyImage:
    """The grey levels 0..255 [H, W] of an image file, or of standard input for "-".

    Raises DataError.
    """
    content = read_bytes(name)
    Image.init()
    formats = [kind for kind in Image.OPEN if kind not in RUNS_A_PROGRAM]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(content), formats=formats))
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{name} is too large: at most {Image.MAX_IMAGE_PIXELS:,} pixels are read"
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image that can be read, such as PNG or JPEG") from error
    except Exception as error:  # Pillow's many decoders raise as many kinds, of a damaged file
        raise DataError(f"{name} is damaged: {' '.join(str(error).split())}") from error
    return to_grey(image)


def read_bytes(name: str) -> bytes:
    try:
        with (
            nullcontext(sys.stdin.buffer)
            if name == STANDARD_INPUT
            else Path(name).open("rb") as file
        ):
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from error
    if not content:
        raise DataError(f"{name} is empty; it must be an image file")
    if len(content) > MOST_BYTES:
        raise DataError(f"{name} is too large: at most {MOST_BYTES:,} bytes are read")
    return content


def to_grey(image: Image.Image) -> GreyImage:
    """Transparent pixels become white, or black where what is drawn is light."""
    deep = image.mode.startswith(("I", "F"))  # 16 bits and more: Pillow would cut them off at 255
    if not deep:
        image = image.convert("LA" if image.has_transparency_data else "L")
    image.thumbnail((LARGEST, LARGEST))
    levels = np.nan_to_num(np.asarray(image, dtype=np.float64))
    if deep:
        levels = 255 * (levels - levels.min()) / max(float(np.ptp(levels)), 1e-9)
    if levels.ndim == 2:
        return levels
    levels, drawn = levels[..., 0], levels[..., 1] / 255
    paper = 255 if (levels * drawn).sum() < 128 * drawn.sum() else 0
    return levels * drawn + paper * (1 - drawn)


def to_drawing(grey: GreyImage, name: str) -> Drawing:
    """What stands out from the background, in MNIST's form. Raises DataError where nothing does."""
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    background = float(np.median(border))
    dark, light = background - grey.min(), grey.max() - background
    contrast = max(dark, light)
    if contrast < LEAST_CONTRAST:
        raise DataError(f"{name} is blank: nothing stands out from its background")
    ink = (background - grey if dark > light else grey - background).clip(0)
    noise = 3 * float(np.percentile(np.abs(border - background), 75))
    plain = noise < contrast / 2
    ink[ink <= min(noise, contrast / 2)] = 0
    return Drawing(center(scale(remove_specks(ink))), plain)


def remove_specks(ink: GreyImage) -> GreyImage:
    """Without the grains and dust that would make the digit's box too large."""
    parts, _ = label(ink > 0, structure=np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0  # the background
    return np.where(sizes[parts] >= SPECK * sizes.max(), ink, 0)


def scale(ink: GreyImage) -> GreyImage:
    """Crop to what is drawn, and fit it into the box."""
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    cropped = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(BOX * side / max(cropped.shape))) for side in cropped.shape)
    resized = Image.fromarray(cropped.astype(np.float32)).resize(
        (width, height), Image.Resampling.LANCZOS
    )
    fitted = np.asarray(resized, dtype=np.float64).clip(0)
    whole: GreyImage = 255 * fitted / fitted.max()
    return whole


def center(ink: GreyImage) -> UInt8Array:
    """Place it with its centre of mass at pixel 14, counted from 0 both ways, as in MNIST."""
    weights = [ink.sum(axis=1), ink.sum(axis=0)]
    middles = [np.arange(len(weight)) @ weight / weight.sum() for weight in weights]
    top, left = (
        int(np.clip(round(IMAGE_SIZE / 2 - middle), 0, IMAGE_SIZE - side))
        for middle, side in zip(middles, ink.shape, strict=True)
    )
    canvas = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    canvas[top : top + ink.shape[0], left : left + ink.shape[1]] = ink.round()
    return canvas
