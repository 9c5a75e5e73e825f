"""Claims about corruptions: the formulas and constants of CIFAR-10-C, drawn for each image by its index alone."""

import colorsys
import io
import itertools

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from hf_critmom.tasks import CORRUPTIONS, corrupt, parse_corruption
from hf_critmom.tasks.corruptions import SEVERITIES
from hf_critmom.tasks.task import TaskError

# ImageNet-C/create_c/make_cifar_c.py of github.com/hendrycks/robustness, read again for this test.
PUBLISHED = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": (80, 65, 58, 50, 40),
}
any_corruption = pytest.mark.parametrize("name", CORRUPTIONS)
any_severity = pytest.mark.parametrize("severity", SEVERITIES)


def images(count=6, channels=3, height=32, width=32, seed=0):
    """Smooth pictures with some texture, uint8 (count, channels, height, width)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0.0 : 1.0 : height * 1j, 0.0 : 1.0 : width * 1j]
    waves = np.sin(2.0 + 6.0 * rng.random((count, channels, 1, 1)) * (rows + 2.0 * columns))
    return np.uint8(np.clip(128 + 90 * waves + 12 * rng.standard_normal(waves.shape), 0, 255))


def test_the_table_holds_the_published_constants():
    assert {name: corruption.constants for name, corruption in CORRUPTIONS.items()} == PUBLISHED


def published(name, constant, image):
    """A second writing of the published formulas, (height, width, 3), from 0 to 1 or as uint8; noise is left out."""
    x = image / 255.0
    if name == "contrast":
        means = x.mean(axis=(0, 1))
        return means + constant * (x - means)
    if name in ("brightness", "saturate"):
        changed = np.empty_like(x)
        for place in np.ndindex(*x.shape[:2]):
            hue, saturation, value = colorsys.rgb_to_hsv(*x[place])
            if name == "brightness":
                value = min(max(value + constant, 0.0), 1.0)
            else:
                saturation = min(max(saturation * constant[0] + constant[1], 0.0), 1.0)
            changed[place] = colorsys.hsv_to_rgb(hue, saturation, value)
        return changed
    if name == "gaussian_blur":
        for axis in (0, 1):
            x = gaussian_filter1d(x, constant, axis=axis, mode="nearest")
        return x
    picture = Image.fromarray(image)
    if name == "pixelate":
        small = picture.resize([int(side * constant) for side in picture.size], Image.BOX)
        return np.asarray(small.resize(picture.size, Image.BOX))
    encoded = io.BytesIO()
    picture.save(encoded, format="JPEG", quality=constant)
    return np.asarray(Image.open(encoded))


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "gaussian_noise"])
@any_severity
def test_an_image_is_changed_as_published(name, severity):
    given = images(3)
    changed = corrupt(given, name, severity)
    for ours, image in zip(changed, given, strict=True):
        theirs = published(name, PUBLISHED[name][severity - 1], image.transpose(1, 2, 0))
        if theirs.dtype != np.uint8:
            theirs = np.clip(theirs, 0.0, 1.0) * 255.0
            assert np.abs(ours.transpose(1, 2, 0) - theirs).max() <= 1.0 + 1e-6
        else:
            assert (ours.transpose(1, 2, 0) == theirs).all()


@any_severity
def test_noise_has_the_published_deviation(severity):
    grey = np.full((20, 3, 32, 32), 128, dtype=np.uint8)
    noise = corrupt(grey, "gaussian_noise", severity) / 255.0 - 128 / 255.0
    assert noise.std() == pytest.approx(PUBLISHED["gaussian_noise"][severity - 1], rel=0.02)
    assert abs(noise.mean() + 0.5 / 255.0) < 0.001  # values are cut off, not rounded


@any_corruption
@any_severity
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 5, 9), (3, 17, 64), (1, 1, 1)])
def test_any_size_of_grey_or_coloured_images_comes_back_in_its_shape(name, severity, shape):
    given = images(2, *shape)
    before = given.copy()
    changed = corrupt(given, name, severity)
    assert changed.shape == given.shape and changed.dtype == np.uint8
    assert (given == before).all()


@any_corruption
def test_what_an_image_draws_depends_on_seed_and_index_alone(name):
    given = images(6)
    whole = corrupt(given, name, 3, seed=1)
    assert (corrupt(given, name, 3, seed=1) == whole).all()
    assert (corrupt(given[:2], name, 3, seed=1) == whole[:2]).all()
    assert (corrupt(given, name, 3, seed=2) != whole).any() == (name == "gaussian_noise")


def test_images_do_not_share_their_noise_and_severities_do():
    grey = np.full((2, 1, 32, 32), 128, dtype=np.uint8)
    mild, strong = (corrupt(grey, "gaussian_noise", severity).astype(float) for severity in (1, 5))
    assert abs(np.corrcoef(mild[0].ravel(), mild[1].ravel())[0, 1]) < 0.1
    assert np.corrcoef(mild[0].ravel(), strong[0].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "saturate"])
def test_images_get_further_away_with_the_severity(name):
    given = images(12)
    distances = [np.abs(corrupt(given, name, severity).astype(float) - given).mean() for severity in SEVERITIES]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(distances))


@any_severity
def test_grey_images_have_no_saturation_to_change(severity):
    given = images(3, channels=1)
    assert (corrupt(given, "saturate", severity) == given).all()
    assert [name for name in CORRUPTIONS if (corrupt(given, name, severity) == given).all()] == ["saturate"]


def test_grey_and_coloured_agree_where_colour_has_no_part():
    grey = images(3, channels=1)
    for name in ("contrast", "brightness", "gaussian_blur", "pixelate"):
        coloured = corrupt(np.repeat(grey, 3, axis=1), name, 4)
        assert (np.abs(coloured.astype(int) - corrupt(grey, name, 4)) <= 1).all()


# ---------------------------------------------------------------------------------------------------------- their names


def test_a_name_stands_for_all_severities():
    assert parse_corruption("contrast") == ("contrast", (1, 2, 3, 4, 5))
    assert parse_corruption("contrast:3") == ("contrast", (3,))


@pytest.mark.parametrize(
    "text", ["contrast:", "contrast:0", "contrast:6", "contrast:high", "contrast:3:4", "contrast:1.5"]
)
def test_a_severity_is_a_number_from_1_to_5(text):
    with pytest.raises(TaskError, match=r"from 1 to 5, as in contrast:3\.$"):
        parse_corruption(text)


@pytest.mark.parametrize("text", ["", "fog", "Contrast", "fog:3"])
def test_an_unknown_corruption_is_answered_with_the_known_ones(text):
    with pytest.raises(TaskError, match="gaussian_noise, gaussian_blur, contrast, brightness, saturate, pixelate"):
        parse_corruption(text)
    with pytest.raises(TaskError, match="Unknown corruption"):
        corrupt(images(1), text.partition(":")[0], 1)


@pytest.mark.parametrize("severity", [0, 6, 2.5])
def test_corrupting_checks_its_severity(severity):
    with pytest.raises(TaskError, match="from 1 to 5"):
        corrupt(images(1), "contrast", severity)
