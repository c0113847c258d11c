"""Turn any image into the form of the data set that a model was trained on.

All are light on black and keep their proportions. How they lie in the 28 × 28 pixels, the data
set's description says:

- centred: scaled to fill a box of 20 × 20, their centre of mass in the middle, as MNIST's digits
  (http://yann.lecun.com/exdb/mnist)
- fitted: scaled so that the longest side fills the frame, the other one in its middle, as
  FashionMNIST's clothes (https://arxiv.org/abs/1708.07747, section 2)
"""

import io
import math
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.ndimage import label

from pipeline.errors import DataError
from pipeline.mnist.idx import IMAGE_SIZE, Preparation, UInt8Array

STANDARD_INPUT = "-"
BOX_SIZE = 20  # pixels, both ways
MAX_BYTES = 2**28  # of a file
MAX_SIDE = 2000  # pixels; a larger image is made smaller first
MIN_CONTRAST = 16  # of 255 grey levels; an image with less is blank
MIN_PART = 1 / 20  # of the drawing's largest part, in pixels; a smaller one is a speck
EDGE = 1 / 20  # of the contrast; fainter edges are trimmed, as FashionMNIST's makers did
UNSAFE_FORMATS = {"EPS"}  # Pillow hands these to another program, Ghostscript
GreyImage = NDArray[np.float64]


class Prepared(NamedTuple):
    image: UInt8Array  # [28, 28], in the data set's form
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


def bring_into_form(grey: GreyImage, name: str, preparation: Preparation) -> Prepared:
    """Return an image in the form of the data set's images, as it is if it has that form.

    It has it if it is of 28 × 28 pixels, on black. Raises DataError, which names the file `name`.
    """
    if grey.shape == (IMAGE_SIZE, IMAGE_SIZE):
        pixels = grey.round().astype(np.uint8)
        if np.median(surroundings(pixels, preparation)) == 0 and pixels.max() >= MIN_CONTRAST:
            return Prepared(pixels, on_plain_background=True)
    return prepare(grey, name, preparation)


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


def prepare(grey: GreyImage, name: str, preparation: Preparation) -> Prepared:
    """Return what stands out from the background, in the form of the data set's images.

    Raises DataError, which names the file `name`, if nothing stands out.
    """
    surrounding = surroundings(grey, preparation)
    background = float(np.median(surrounding))
    dark, light = background - grey.min(), grey.max() - background
    contrast = max(dark, light)
    if contrast < MIN_CONTRAST:
        raise DataError(f"{name} is blank: nothing stands out from its background")
    ink = (background - grey if dark > light else grey - background).clip(0)
    noise = 3 * float(np.percentile(np.abs(surrounding - background), 75))
    ink[ink <= min(noise, contrast / 2)] = 0
    image = fit(ink) if preparation == "fitted" else center(ink)
    return Prepared(image, on_plain_background=noise < contrast / 2)


def surroundings(grey: NDArray[Any], preparation: Preparation) -> NDArray[Any]:
    """The pixels that show the background."""
    return corners(grey) if preparation == "fitted" else border(grey)


def border(grey: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


def corners(grey: NDArray[Any]) -> NDArray[Any]:
    """The pixels in the corners: clothes that fill the frame touch its border."""
    height, width = (math.ceil(side / IMAGE_SIZE) for side in grey.shape)
    return np.concatenate(
        [grey[rows, columns].ravel() for rows in ends(height) for columns in ends(width)]
    )


def ends(length: int) -> tuple[slice, slice]:
    return slice(None, length), slice(-length, None)


def fit(ink: GreyImage) -> UInt8Array:
    """Fill the frame; what is shorter one way lies in its middle."""
    pixel = (max(ink.shape) / IMAGE_SIZE) ** 2  # of the frame, if the whole image filled it
    sizes = sizes_of_parts(ink > EDGE * ink.max())
    fitted = scale(ink[box_around(sizes >= min(pixel / 4, sizes.max()))], IMAGE_SIZE)
    rest = [IMAGE_SIZE - side for side in fitted.shape]
    return np.pad(fitted, [((side + 1) // 2, side // 2) for side in rest]).round().astype(np.uint8)


def center(ink: GreyImage) -> UInt8Array:
    """Fill the box, and place it with the centre of mass at pixel 14, counted from 0, both ways."""
    sizes = sizes_of_parts(ink > 0)
    drawing = np.where(sizes >= MIN_PART * sizes.max(), ink, 0)  # without dust
    fitted = scale(drawing[box_around(drawing > 0)], BOX_SIZE)
    weights = [fitted.sum(axis=1), fitted.sum(axis=0)]
    middles = [np.arange(len(weight)) @ weight / weight.sum() for weight in weights]
    top, left = (
        int(np.clip(round(IMAGE_SIZE / 2 - middle), 0, IMAGE_SIZE - side))
        for middle, side in zip(middles, fitted.shape, strict=True)
    )
    canvas = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    canvas[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted.round()
    return canvas


def sizes_of_parts(shown: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each pixel, the size in pixels of the connected part that it is of; 0 if of none."""
    parts, _ = label(shown, structure=np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0  # the background
    found: NDArray[np.int64] = sizes[parts]
    return found


def box_around(shown: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def scale(ink: GreyImage, size: int) -> GreyImage:
    """Make the longest side `size` pixels long, and the brightest pixel 255."""
    longest = max(ink.shape)
    height, width = (max(1, round(size * side / longest)) for side in ink.shape)
    image = Image.fromarray(ink.astype(np.float32))
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    fitted = np.asarray(resized, dtype=np.float64).clip(0)
    brightest: GreyImage = 255 * fitted / fitted.max()
    return brightest
