"""A CIFAR-10-C-style subset: seven corruptions of images, each in five severities.

What each does and its constants are those of CIFAR-10-C (D. Hendrycks and T. Dietterich, *Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations*, arXiv 1903.12261; ImageNet-C/create_c/make_cifar_c.py of
github.com/hendrycks/robustness), computed here with scipy, Pillow and matplotlib, on grey or coloured images of any
size. The images are not those of CIFAR-10-C: the noise is drawn again, and decoders and filters differ in rounding.
"""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy.ndimage import gaussian_filter

from hf_critmom.tasks.errors import TaskError

SEVERITIES = (1, 2, 3, 4, 5)

Constant = float | int | tuple[float, float]


@dataclass(frozen=True)
class Corruption:
    """An entry of the table of corruptions.

    Attributes:
        name: Its name in CIFAR-10-C.
        constants: The constant of each severity.
        apply: Maps one image, uint8 (height, width, channels), with a constant and a generator to an image of the same
            shape: uint8, or floats, which are then clipped to 0 to 1.
        help: Meaning of the constant, for help texts.
        of_color: Whether it changes nothing but colours, so that grey images stay as they are.
    """

    name: str
    constants: tuple[Constant, ...]
    apply: Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]
    help: str
    of_color: bool = False


def _gaussian_noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    return image / 255.0 + deviation * rng.standard_normal(image.shape)


def _gaussian_blur(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return gaussian_filter(image / 255.0, sigma=(sigma, sigma, 0.0), mode="nearest", truncate=4.0)


def _contrast(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    pixels = image / 255.0
    means = pixels.mean(axis=(0, 1), keepdims=True)
    return (pixels - means) * factor + means


def _brightness(image: np.ndarray, added: float, rng: np.random.Generator) -> np.ndarray:
    if image.shape[-1] == 1:  # its value is the pixel itself
        return image / 255.0 + added
    hsv = rgb_to_hsv(image / 255.0)
    hsv[..., 2] = np.clip(hsv[..., 2] + added, 0.0, 1.0)
    return hsv_to_rgb(hsv)


def _saturate(image: np.ndarray, line: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    if image.shape[-1] == 1:
        return image
    factor, added = line
    hsv = rgb_to_hsv(image / 255.0)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + added, 0.0, 1.0)
    return hsv_to_rgb(hsv)


def _pixelate(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    picture = _picture(image)
    small = (max(int(picture.width * factor), 1), max(int(picture.height * factor), 1))
    coarse = picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX)
    return np.asarray(coarse).reshape(image.shape)


def _jpeg_compression(image: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
    encoded = io.BytesIO()
    _picture(image).save(encoded, "JPEG", quality=quality)
    with Image.open(encoded) as decoded:
        return np.asarray(decoded).reshape(image.shape)


CORRUPTIONS: dict[str, Corruption] = {
    corruption.name: corruption
    for corruption in (
        Corruption("gaussian_noise", (0.04, 0.06, 0.08, 0.09, 0.10), _gaussian_noise, "standard deviation"),
        Corruption("gaussian_blur", (0.4, 0.6, 0.7, 0.8, 1.0), _gaussian_blur, "standard deviation in pixels"),
        Corruption("contrast", (0.75, 0.5, 0.4, 0.3, 0.15), _contrast, "factor of the distance to the mean"),
        Corruption("brightness", (0.05, 0.1, 0.15, 0.2, 0.3), _brightness, "added to the value (HSV)"),
        Corruption(
            "saturate",
            ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)),
            _saturate,
            "factor of the saturation (HSV), and what is added to it; not of grey images",
            of_color=True,
        ),
        Corruption("pixelate", (0.95, 0.9, 0.85, 0.75, 0.65), _pixelate, "factor of the resolution"),
        Corruption("jpeg_compression", (80, 65, 58, 50, 40), _jpeg_compression, "quality"),
    )
}


def corrupt(images: np.ndarray, name: str, severity: int, *, seed: int = 0) -> np.ndarray:
    """Corrupts images.

    The noise of an image is a function of the seed and its index alone: it does not depend on the other images, and a
    higher severity scales the same noise.

    Args:
        images: uint8, (examples, channels, height, width), with 1 or 3 channels.
        name: A name in `CORRUPTIONS`.
        severity: From 1 to 5.
        seed: Seed for the noise.

    Returns:
        Images of the same shape and dtype.

    Raises:
        TaskError: If the name or the severity is not known.
    """
    corruption = _corruption_named(name)
    if severity not in SEVERITIES:
        raise TaskError(f"The severity of a corruption is a whole number from 1 to 5, got {severity!r}.")
    constant = corruption.constants[severity - 1]
    corrupted = np.empty_like(images)
    for index, image in enumerate(images):
        rng = np.random.default_rng([seed, index])
        changed = corruption.apply(image.transpose(1, 2, 0), constant, rng)
        if changed.dtype != np.uint8:
            changed = (np.clip(changed, 0.0, 1.0) * 255.0).astype(np.uint8)  # truncated, as in CIFAR-10-C
        corrupted[index] = changed.transpose(2, 0, 1)
    return corrupted


def corruptions_of(images: np.ndarray, names: Iterable[str]) -> list[str]:
    """Those corruptions that change images: the others would count as corrupted what is clean.

    Args:
        images: As `corrupt` takes them.
        names: Names in `CORRUPTIONS`.

    Raises:
        TaskError: If a name is not known.
    """
    return [name for name in names if images.shape[1] > 1 or not _corruption_named(name).of_color]


def parse_corruption(text: str) -> tuple[str, tuple[int, ...]]:
    """Reads ``NAME:SEVERITY``, or ``NAME`` for all severities.

    Raises:
        TaskError: If the name or the severity is not known.
    """
    name, separator, severity = text.partition(":")
    _corruption_named(name)
    if not separator:
        return name, SEVERITIES
    if severity not in map(str, SEVERITIES):
        raise TaskError(f"--corruption {text}: the severity must be a whole number from 1 to 5, as in {name}:3.")
    return name, (int(severity),)


def _corruption_named(name: str) -> Corruption:
    if name not in CORRUPTIONS:
        raise TaskError(f"Unknown corruption {name!r}: choose one of {', '.join(CORRUPTIONS)}.")
    return CORRUPTIONS[name]


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image))
