"""Turn any image of a digit into the form of MNIST's images.

MNIST's digits are light on black. They are scaled, with their proportions kept, to fill a box of
20 × 20 pixels; their centre of mass is the middle of 28 × 28 (http://yann.lecun.com/exdb/mnist).
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
BOX_SIZE = 20  # pixels, both ways
MAX_BYTES = 2**28  # of a file
MAX_SIDE = 2000  # pixels; a larger image is made smaller first
MIN_CONTRAST = 16  # of 255 grey levels; an image with less is blank
MIN_PART = 1 / 20  # of the drawing's largest part, in pixels; a smaller one is a speck
UNSAFE_FORMATS = {"EPS"}  # Pillow hands these to another program, Ghostscript
GreyImage = NDArray[np.float64]


class Drawing(NamedTuple):
    image: UInt8Array  # [28, 28], in MNIST's form
    on_plain_background: bool


def read_image(name: str) -> GreyImage:
    """Return the grey levels 0..255 [H, W] of an image file, or of standard input for "-".

    Raises DataError.
    """
    content = read_bytes(name)
    Image.init()
    formats = [kind for kind in Image.OPEN if kind not in UNSAFE_FORMATS]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(content), formats=formats))
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{name} is too large: at most {Image.MAX_IMAGE_PIXELS:,} pixels are read"
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image that can be read, such as PNG or JPEG") from error
    except Exception as error:  # each of Pillow's decoders raises its own for a damaged file
        raise DataError(f"{name} is damaged: {' '.join(str(error).split())}") from error
    return to_grey(image)


def read_bytes(name: str) -> bytes:
    """Return a file's content, or standard input's for "-". Raises DataError."""
    try:
        with (
            nullcontext(sys.stdin.buffer)
            if name == STANDARD_INPUT
            else Path(name).open("rb") as file
        ):
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from error
    if not content:
        raise DataError(f"{name} is empty; it must be an image file")
    if len(content) > MAX_BYTES:
        raise DataError(f"{name} is too large: at most {MAX_BYTES:,} bytes are read")
    return content


def to_grey(image: Image.Image) -> GreyImage:
    """Return the image's grey levels; transparent pixels become white, or black if it is light."""
    deep = image.mode.startswith(("I", "F"))  # 16 bits and more, which Pillow would clip at 255
    if not deep:
        image = image.convert("LA" if image.has_transparency_data else "L")
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    levels = np.nan_to_num(np.asarray(image, dtype=np.float64))
    if deep:
        levels = 255 * (levels - levels.min()) / max(float(np.ptp(levels)), 1e-9)
    if levels.ndim == 2:
        return levels
    levels, opacity = levels[..., 0], levels[..., 1] / 255
    paper = 255 if (levels * opacity).sum() < 128 * opacity.sum() else 0
    return levels * opacity + paper * (1 - opacity)


def to_drawing(grey: GreyImage, name: str) -> Drawing:
    """Return what stands out from the background, in MNIST's form.

    Raises DataError, which names the file `name`, if nothing stands out.
    """
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    background = float(np.median(border))
    dark, light = background - grey.min(), grey.max() - background
    contrast = max(dark, light)
    if contrast < MIN_CONTRAST:
        raise DataError(f"{name} is blank: nothing stands out from its background")
    ink = (background - grey if dark > light else grey - background).clip(0)
    noise = 3 * float(np.percentile(np.abs(border - background), 75))
    ink[ink <= min(noise, contrast / 2)] = 0
    image = center(scale(remove_specks(ink)))
    return Drawing(image, on_plain_background=noise < contrast / 2)


def remove_specks(ink: GreyImage) -> GreyImage:
    """Remove dust, which would make the digit's box too large."""
    parts, _ = label(ink > 0, structure=np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0  # the background
    return np.where(sizes[parts] >= MIN_PART * sizes.max(), ink, 0)


def scale(ink: GreyImage) -> GreyImage:
    """Crop to the drawing, and fit it into the box."""
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    cropped = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    longest = max(cropped.shape)
    height, width = (max(1, round(BOX_SIZE * side / longest)) for side in cropped.shape)
    image = Image.fromarray(cropped.astype(np.float32))
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    fitted = np.asarray(resized, dtype=np.float64).clip(0)
    brightest: GreyImage = 255 * fitted / fitted.max()
    return brightest


def center(ink: GreyImage) -> UInt8Array:
    """Place the drawing with its centre of mass at pixel 14, counted from 0, both ways."""
    weights = [ink.sum(axis=1), ink.sum(axis=0)]
    middles = [np.arange(len(weight)) @ weight / weight.sum() for weight in weights]
    top, left = (
        int(np.clip(round(IMAGE_SIZE / 2 - middle), 0, IMAGE_SIZE - side))
        for middle, side in zip(middles, ink.shape, strict=True)
    )
    canvas = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    canvas[top : top + ink.shape[0], left : left + ink.shape[1]] = ink.round()
    return canvas
