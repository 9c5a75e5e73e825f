"""Claims about tasks: the CIFAR ResNet, augmentation, batches of images, where data comes from and how it is split."""

import io
import json
import math
import shlex
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)
from transformers.modeling_outputs import ImageClassifierOutput

from hf_critmom.commands.compare import parse_comparison
from hf_critmom.tasks import (
    MODELS,
    TASKS,
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DataArguments,
    ModelArguments,
    Task,
    TaskError,
    build_model,
    check_model,
    load_task,
    model_record,
    task_spec,
)
from hf_critmom.tasks.images import Augmentation, ImageDataset, channel_statistics
from hf_critmom.tasks.metrics import METRICS
from hf_critmom.tasks.splits import collate_batches
from hf_critmom.training.arguments import recorded_training_arguments

CLASSES = ("cat", "dog", "frog")
CARDS = Path(__file__).parents[2] / "model_cards"


@pytest.fixture(scope="module", autouse=True)
def datasets_cache_of_this_module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache"))
        yield


@pytest.fixture(scope="module")
def digits() -> Task:
    return load_task(DataArguments())


def resnet(**options: Any) -> CifarResNetForImageClassification:
    return CifarResNetForImageClassification(CifarResNetConfig(**{"num_labels": 10, **options}))


def random_images(count: int, channels: int = 3, size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def picture(image: np.ndarray) -> Image.Image:
    """(channels, height, width) as a PIL image: grey, RGB or RGBA."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def write_folder(folder: Path, images: np.ndarray, labels: np.ndarray, suffixes: tuple[str, ...] = (".png",)) -> Path:
    """An image folder with a subfolder per class, file formats taken in turn."""
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        picture(image).save(folder / CLASSES[label] / f"{index:04d}{suffixes[index % len(suffixes)]}")
    return folder


def write_parquet(folder: Path, splits: dict[str, tuple[np.ndarray, Any]], label: Any = None) -> Path:
    """A folder laid out like the one of scripts/fetch_cifar10.py: data/SPLIT-00000-of-00001.parquet."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    features = {"img": datasets.Image(), "label": label or datasets.ClassLabel(names=list(CLASSES))}
    for name, (images, labels) in splits.items():
        columns = {"img": [picture(image) for image in images], "label": list(labels)}
        table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        table.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return folder


def labels_in_turn(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64) % len(CLASSES)


def contents(split: ImageDataset) -> set[bytes]:
    return {image.tobytes() for image in split.images}


def error_of(**flags: Any) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(DataArguments(**flags))
    return one_sentence(caught.value)


def one_sentence(error: Exception) -> str:
    message = str(error)
    assert "\n" not in message and message.endswith("."), message
    return message


# ---------------------------------------------------------------------------------------------------- the network


def test_the_usual_resnet_18_has_11_173_962_parameters() -> None:
    assert resnet().num_parameters() == 11_173_962


def test_parameters_fall_into_seven_layer_groups() -> None:
    groups = dict.fromkeys(tuple(name.split(".")[:2]) for name, _ in resnet(width=4).named_parameters())
    assert list(groups) == [
        ("resnet", group) for group in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")
    ]


def test_the_stem_keeps_the_resolution_and_nothing_is_pooled_before_layer1() -> None:
    model = resnet(width=4)
    stem = model.resnet.conv1
    assert (stem.kernel_size, stem.stride, stem.padding, stem.bias) == ((3, 3), (1, 1), (1, 1), None)
    assert not [name for name, module in model.named_modules() if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d))]
    sizes = {}
    for name in ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        module = getattr(model.resnet, name)
        module.register_forward_hook(lambda *call, name=name: sizes.update({name: tuple(call[2].shape[1:])}))
    model(torch.zeros(2, 3, 32, 32))
    assert sizes == {
        "conv1": (4, 32, 32),
        "maxpool": (4, 32, 32),
        "layer1": (4, 32, 32),
        "layer2": (8, 16, 16),
        "layer3": (16, 8, 8),
        "layer4": (32, 4, 4),
    }


def test_convolutions_start_as_kaiming_normal_over_the_outputs() -> None:
    torch.manual_seed(0)
    for name, module in resnet(width=32).named_modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2.0 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1]))
            drawn = module.weight.detach()
            tolerance = 5.0 * expected / math.sqrt(2.0 * drawn.numel())  # five deviations of a sample deviation
            assert float(drawn.std()) == pytest.approx(expected, abs=tolerance), name
            assert abs(float(drawn.mean())) < 5.0 * expected / math.sqrt(drawn.numel()), name


def test_the_classifier_starts_as_torchs_own_linear_layer() -> None:
    torch.manual_seed(0)
    fc = resnet(width=64).resnet.fc
    bound = 1.0 / math.sqrt(fc.in_features)
    for drawn in (fc.weight.detach(), fc.bias.detach()):
        assert float(drawn.abs().max()) <= bound
    assert stats.kstest(fc.weight.detach().numpy().ravel(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
    assert float(fc.weight.detach().std()) == pytest.approx(bound / math.sqrt(3.0), rel=0.03)


def test_batch_norm_starts_as_the_identity_in_every_block() -> None:
    for module in resnet(width=4).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.bias, torch.zeros_like(module.bias))


def test_loss_is_the_mean_cross_entropy_and_a_tuple_is_returned_on_request() -> None:
    model = resnet(width=4).eval()
    pixels, labels = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 3, 9])
    outputs = model(pixels, labels=labels)
    by_hand = -torch.stack([row.log_softmax(0)[label] for row, label in zip(outputs.logits, labels, strict=True)])
    torch.testing.assert_close(outputs.loss, by_hand.mean())
    loss, logits = model(pixels, labels=labels, return_dict=False)
    assert torch.equal(loss, outputs.loss) and torch.equal(logits, outputs.logits)
    assert model(pixels).loss is None
    assert len(model(pixels, return_dict=False)) == 1


@pytest.mark.parametrize(("width", "channels"), [(16, 1), (4, 3)])
def test_a_saved_model_comes_back_bit_for_bit_through_the_auto_classes(
    tmp_path: Path, width: int, channels: int
) -> None:
    names = {index: f"class {index}" for index in range(5)}
    model = resnet(width=width, num_channels=channels, image_size=8, id2label=names, num_labels=5)
    model.train()
    model(torch.randn(8, channels, 8, 8))  # moves the running statistics away from their start
    model.save_pretrained(tmp_path)
    pixels = torch.randn(3, channels, 8, 8)
    assert type(AutoConfig.from_pretrained(tmp_path)) is CifarResNetConfig
    for auto in (AutoModelForImageClassification, CifarResNetForImageClassification):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is CifarResNetForImageClassification
        assert (loaded.config.width, loaded.config.num_channels, loaded.config.image_size) == (width, channels, 8)
        assert loaded.config.id2label == names
        expected, found = model.state_dict(), loaded.state_dict()
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert torch.equal(loaded.eval()(pixels).logits, model.eval()(pixels).logits)


# ------------------------------------------------------------------------------------------------------ build_model


def test_weights_are_a_function_of_the_seed_alone(digits: Task) -> None:
    arguments = ModelArguments(width=4)
    first = build_model(digits, arguments, seed=3).state_dict()
    torch.rand(100)  # what was drawn in between must not matter
    again = build_model(digits, arguments, seed=3).state_dict()
    other = build_model(digits, arguments, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["resnet.conv1.weight"], other["resnet.conv1.weight"])
    assert not torch.equal(first["resnet.fc.weight"], other["resnet.fc.weight"])


def test_the_model_is_made_for_the_tasks_images_and_classes(digits: Task) -> None:
    config = build_model(digits, ModelArguments(width=4), seed=0).config
    assert (config.num_channels, config.image_size, config.num_labels, config.width) == (1, 8, 10, 4)
    assert config.id2label == dict(enumerate("0123456789"))
    assert build_model(digits, ModelArguments(), seed=0).config.width == 64


def test_a_saved_classifier_of_other_classes_gets_a_new_head_from_the_seed(digits: Task, tmp_path: Path) -> None:
    saved = resnet(width=4, num_channels=1, num_labels=3)
    saved.save_pretrained(tmp_path)
    arguments = ModelArguments(model_name_or_path=str(tmp_path))
    first, again, other = (build_model(digits, arguments, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.resnet.conv1.weight, saved.resnet.conv1.weight)
    assert first.resnet.fc.out_features == 10
    assert torch.equal(first.resnet.fc.weight, again.resnet.fc.weight)
    assert not torch.equal(first.resnet.fc.weight, other.resnet.fc.weight)


def test_an_unknown_model_is_answered_with_the_known_ones(digits: Task) -> None:
    with pytest.raises(TaskError) as caught:
        build_model(digits, ModelArguments(model="resnet19"), seed=0)
    assert "'resnet19'" in one_sentence(caught.value) and "resnet18" in str(caught.value)


@pytest.mark.parametrize("width", [5, 1, 0, -2])
def test_a_width_that_is_not_even_and_positive_is_refused(digits: Task, width: int) -> None:
    with pytest.raises(TaskError, match=f"even number of channels, got {width}"):
        build_model(digits, ModelArguments(width=width), seed=0)


def test_a_model_that_does_not_exist_is_refused_in_one_sentence(digits: Task, tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    with pytest.raises(TaskError) as caught:
        build_model(digits, ModelArguments(model_name_or_path=missing), seed=0)
    assert missing in one_sentence(caught.value)


def test_a_folder_without_a_model_and_a_truncated_model_are_refused(digits: Task, tmp_path: Path) -> None:
    with pytest.raises(TaskError) as caught:
        build_model(digits, ModelArguments(model_name_or_path=str(tmp_path)), seed=0)
    assert str(tmp_path) in one_sentence(caught.value)
    resnet(width=4, num_channels=1).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(TaskError) as caught:
        build_model(digits, ModelArguments(model_name_or_path=str(tmp_path)), seed=0)
    assert str(tmp_path) in one_sentence(caught.value)


class LossOf(PreTrainedModel):
    """A classifier whose loss is whatever it was told."""

    config_class = CifarResNetConfig

    def __init__(self, loss: float | None) -> None:
        super().__init__(CifarResNetConfig(num_labels=10))
        self.scale = nn.Parameter(torch.ones(()))
        self.loss = loss

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> ImageClassifierOutput:
        logits = self.scale * pixel_values.mean() * torch.ones(len(pixel_values), 10)
        return ImageClassifierOutput(loss=None if self.loss is None else torch.tensor(self.loss), logits=logits)


def test_a_model_that_returns_no_finite_loss_is_refused(digits: Task) -> None:
    check_model(LossOf(2.3), digits)
    for loss, words in ((None, "no loss"), (math.nan, "the loss nan"), (math.inf, "the loss inf")):
        with pytest.raises(TaskError) as caught:
            check_model(LossOf(loss), digits)
        assert f"LossOf returned {words}" in one_sentence(caught.value)


def test_a_plain_module_is_refused(digits: Task) -> None:
    class LogitsOnly(nn.Module):
        def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(pixel_values), 10)

    with pytest.raises(TaskError, match="LogitsOnly returned no loss"):
        check_model(LogitsOnly(), digits)  # type: ignore[arg-type]


def test_a_model_made_for_other_images_or_classes_is_refused(digits: Task) -> None:
    vit = ViTForImageClassification(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32)
    )
    too_few_classes = resnet(width=4, num_channels=1, num_labels=2)
    for model in (vit, resnet(width=4, num_channels=3), too_few_classes):
        with pytest.raises(TaskError) as caught:
            check_model(model, digits)
        assert "(1, 8, 8)" in one_sentence(caught.value)


def test_checking_leaves_a_model_as_it_was(digits: Task) -> None:
    model = build_model(digits, ModelArguments(width=4), seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_model(model.train(), digits)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# ----------------------------------------------------------------------------------------------------- augmentation


def draw(seed: int, epoch: int, index: int) -> int:
    """The reference twin's SplitMix64, in Python's unbounded integers."""
    state, mask = 0, 2**64 - 1
    for word in (seed % 2**64, epoch, index):
        state = ((state ^ word) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state


def augmented_slowly(augmentation: Augmentation, image: np.ndarray, index: int, epoch: int) -> np.ndarray:
    """The reference twin: one image, pixel by pixel."""
    bits = draw(augmentation.seed, epoch, index)
    positions = 2 * augmentation.padding + 1
    top = (bits % 2**20) % positions - augmentation.padding
    left = ((bits >> 20) % 2**20) % positions - augmentation.padding
    mirrored = augmentation.flip and (bits >> 40) % 2 == 1
    channels, height, width = image.shape
    result = np.zeros_like(image)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                source_row, source_column = row + top, (width - 1 - column if mirrored else column) + left
                if 0 <= source_row < height and 0 <= source_column < width:
                    result[channel, row, column] = image[channel, source_row, source_column]
    return result


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10)])
@pytest.mark.parametrize(("padding", "flip"), [(0, True), (1, False), (4, True), (6, True)])
def test_augmentation_equals_the_reference_twin(shape: tuple[int, int, int], padding: int, flip: bool) -> None:
    images = np.random.default_rng(1).integers(1, 256, (12, *shape), dtype=np.uint8)
    indices = np.array([0, 1, 2, 3, 11, 4, 49_999, 5, 6, 7, 2**40, 8])
    for seed, epoch in ((0, 0), (0, 7), (2**40 + 3, 1)):
        augmentation = Augmentation(padding, flip, seed)
        expected = [
            augmented_slowly(augmentation, image, int(index), epoch)
            for image, index in zip(images, indices, strict=True)
        ]
        augmented = augmentation(images, indices, epoch)
        assert augmented.dtype == np.uint8
        np.testing.assert_array_equal(augmented, np.stack(expected))


def test_what_an_image_draws_does_not_depend_on_its_batch() -> None:
    images = random_images(40)
    augmentation = Augmentation(padding=3, flip=True, seed=5)
    indices = np.arange(40)
    whole = augmentation(images, indices, 2)
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(augmentation(images[order], indices[order], 2), whole[order])
    for size in (1, 7):
        parts = [augmentation(images[i : i + size], indices[i : i + size], 2) for i in range(0, 40, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_epochs_and_seeds_draw_anew() -> None:
    images, indices = random_images(200), np.arange(200)
    augmentation = Augmentation(padding=4, flip=True, seed=0)
    drawn = [augmentation(images, indices, 0), augmentation(images, indices, 1)]
    drawn += [Augmentation(4, True, seed)(images, indices, 0) for seed in (1, 2)]
    for first in range(len(drawn)):
        for second in range(first):
            same = (drawn[first] == drawn[second]).all(axis=(1, 2, 3)).mean()
            assert same < 0.05  # by chance 1 in 162


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (7, 29)])
def test_crops_and_flips_are_uniform_and_independent(seed: int, epoch: int) -> None:
    padding, size, count = 2, 8, 50 * 2000
    numbered = np.arange(size * size, dtype=np.uint8).reshape(1, 1, size, size)
    images = np.broadcast_to(numbered, (count, 1, size, size))
    augmented = Augmentation(padding, True, seed)(images, np.arange(count), epoch)[:, 0]
    mirrored = augmented[:, 4, 3] > augmented[:, 4, 4]
    seen = augmented[:, 4, 4].astype(int)
    top, left = seen // size - 4, seen % size - np.where(mirrored, 3, 4)
    cells = np.bincount(((top + padding) * 5 + left + padding) * 2 + mirrored, minlength=50)
    assert len(cells) == 50
    assert stats.chisquare(cells).pvalue > 1e-3


def test_neighbouring_indices_and_epochs_are_uncorrelated() -> None:
    bits = np.array([[draw(0, epoch, index) >> 40 & 1 for index in range(2000)] for epoch in range(2)])
    for first, second in ((bits[0], bits[1]), (bits[0][:-1], bits[0][1:])):
        assert abs(np.corrcoef(first, second)[0, 1]) < 4.0 / math.sqrt(2000)


def test_only_training_images_are_augmented(digits: Task) -> None:
    for split in (digits.validation, digits.test):
        assert split.augmentation is None
        split.set_epoch(0)
        before = split.__getitems__(range(20))["pixel_values"]
        split.set_epoch(1)
        assert torch.equal(split.__getitems__(range(20))["pixel_values"], before)
    assert digits.train.augmentation == Augmentation(padding=1, flip=False, seed=0)
    drawn = []
    for epoch in (0, 1):
        digits.train.set_epoch(epoch)
        drawn.append(digits.train.__getitems__(range(20))["pixel_values"])
    digits.train.set_epoch(0)
    assert not torch.equal(*drawn)


def test_without_crop_and_flip_nothing_is_augmented() -> None:
    task = load_task(DataArguments(crop_padding=0))  # the digits are never mirrored
    assert task.train.augmentation is None


# -------------------------------------------------------------------------------------------------- batches of images


def image_dataset(count: int = 30, channels: int = 3, augmentation: Augmentation | None = None) -> ImageDataset:
    images = random_images(count, channels)
    mean, std = channel_statistics(images)
    return ImageDataset(images, labels_in_turn(count), mean=mean, std=std, augmentation=augmentation)


@pytest.mark.parametrize("augmentation", [None, Augmentation(2, True, 3)])
def test_a_batch_equals_its_stacked_examples(augmentation: Augmentation | None) -> None:
    dataset = image_dataset(augmentation=augmentation)
    dataset.set_epoch(4)
    indices = [3, 0, 29, 7, 7]
    batch = dataset.__getitems__(indices)
    assert batch["pixel_values"].dtype == torch.float32 and batch["labels"].dtype == torch.int64
    one_by_one = collate_batches([dataset[index] for index in indices])
    assert list(batch) == list(one_by_one)
    for name in batch:
        assert torch.equal(batch[name], one_by_one[name])
    assert collate_batches(batch) is batch


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_what_the_saved_processor_computes(tmp_path: Path, channels: int) -> None:
    images = random_images(60, channels, size=12)
    folder = write_parquet(tmp_path / "set", {"train": (images, labels_in_turn(60))})
    task = load_task(DataArguments(task=str(folder)))
    task.processor.save_pretrained(tmp_path / "processor")
    processor = ViTImageProcessor.from_pretrained(tmp_path / "processor")
    pictures = [picture(image) for image in task.validation.images]
    expected = processor(images=pictures, return_tensors="pt")["pixel_values"]
    found = task.validation.__getitems__(range(len(task.validation)))["pixel_values"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_pixels_of_the_digits_are_what_the_processor_computes(digits: Task) -> None:
    pictures = [picture(image) for image in digits.test.images[:50]]
    expected = digits.processor(images=pictures, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(digits.test.__getitems__(range(50))["pixel_values"], expected, rtol=1e-5, atol=1e-5)


def test_resized_pixels_agree_with_the_processor_to_a_grey_level(tmp_path: Path) -> None:
    smooth = np.kron(random_images(30, 3, size=4), np.ones((1, 1, 8, 8), dtype=np.uint8))
    other = 255 - smooth
    folder = write_parquet(tmp_path, {"train": (other, labels_in_turn(30)), "test": (smooth, labels_in_turn(30))})
    task = load_task(DataArguments(task=str(folder), image_size=16))
    assert task.image_shape == (3, 16, 16)
    expected = task.processor(images=[picture(image) for image in smooth], return_tensors="pt")["pixel_values"]
    found = task.test.__getitems__(range(30))["pixel_values"]
    levels = (found - expected).abs() * 255.0 * torch.tensor(task.test.std).view(1, -1, 1, 1)
    assert float(levels.max()) <= 1.01


def test_training_pixels_have_mean_zero_and_deviation_one(digits: Task) -> None:
    plain = ImageDataset(digits.train.images, digits.train.labels, mean=digits.train.mean, std=digits.train.std)
    pixels = plain.__getitems__(range(len(plain)))["pixel_values"].double()
    assert float(pixels.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(pixels.std(correction=0)) == pytest.approx(1.0, abs=1e-5)


def test_loader_workers_that_persist_see_each_epoch() -> None:
    dataset = image_dataset(augmentation=Augmentation(3, True, 0))
    loader = DataLoader(dataset, batch_size=8, num_workers=1, persistent_workers=True, collate_fn=collate_batches)
    for epoch in (0, 1, 5):
        dataset.set_epoch(epoch)
        loaded = torch.cat([batch["pixel_values"] for batch in loader])
        assert torch.equal(loaded, dataset.__getitems__(range(30))["pixel_values"])


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_equal_numpys(channels: int) -> None:
    images = random_images(50, channels, size=9, seed=2) // np.arange(1, channels + 1, dtype=np.uint8)[:, None, None]
    scaled = images.astype(np.float64) / 255.0
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    mean, std = channel_statistics(np.full((4, 1, 3, 3), 255, dtype=np.uint8))
    assert mean == (1.0,) and std == (1.0,)


# ------------------------------------------------------------------------------------------------------------ sources


def test_the_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    task = load_task(DataArguments())
    reference = load_digits()
    known = {image.tobytes(): label for image, label in zip(reference.images, reference.target, strict=True)}
    total = 0
    for split in (task.train, task.validation, task.test):
        assert split.images.dtype == np.uint8 and split.images.shape[1:] == (1, 8, 8)
        for image, label in zip(split.images[:, 0], split.labels, strict=True):
            assert known[np.round(image / 255.0 * 16.0).tobytes()] == label
        total += len(split)
    assert total == 1797
    assert task.name == "digits" and "scikit-learn" in task.source


def test_a_parquet_folder_is_read_as_fetch_cifar10_writes_it(tmp_path: Path) -> None:
    train, test = random_images(60, seed=1), random_images(12, seed=2)
    folder = write_parquet(tmp_path / "cifar", {"train": (train, labels_in_turn(60)), "test": (test, [2] * 12)})
    for flags in ({"task": str(folder)}, {"dataset_name": str(folder)}):
        task = load_task(DataArguments(**flags))
        np.testing.assert_array_equal(task.test.images, test)
        assert task.test.labels.tolist() == [2] * 12
        assert task.label_names == CLASSES
        assert (task.name, task.source) == ("cifar", "local folder cifar")
        assert contents(task.train) | contents(task.validation) == {image.tobytes() for image in train}


def test_an_image_folder_is_read_by_either_flag(tmp_path: Path) -> None:
    images, labels = random_images(45), labels_in_turn(45)
    folder = write_folder(tmp_path / "pets", images, labels, (".png", ".jpg"))
    by_train_dir = load_task(DataArguments(train_dir=str(folder)))
    by_task = load_task(DataArguments(task=str(folder)))
    assert by_train_dir.description() == by_task.description()
    assert by_task.label_names == CLASSES
    known = {}
    for label, name in enumerate(CLASSES):
        for file in (folder / name).iterdir():
            known[np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes()] = label
    assert len(known) == 45
    for split in (by_task.train, by_task.validation, by_task.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert known[image.tobytes()] == label


def test_image_folders_of_their_own_are_the_given_splits(tmp_path: Path) -> None:
    folders = {}
    for seed, name in enumerate(("train", "validation", "test")):
        folders[name] = write_folder(tmp_path / f"my {name}", random_images(9, seed=seed), labels_in_turn(9))
    task = load_task(DataArguments(**{f"{name}_dir": str(folder) for name, folder in folders.items()}))
    for seed, split in enumerate((task.train, task.validation, task.test)):
        assert contents(split) == {image.tobytes() for image in random_images(9, seed=seed)}
    assert task.notes == ()


def test_one_folder_with_split_folders_is_read_with_its_splits(tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "val", "test")):
        write_folder(tmp_path / name, random_images(9, seed=seed), labels_in_turn(9))
    task = load_task(DataArguments(task=str(tmp_path)))
    for seed, split in enumerate((task.train, task.validation, task.test)):
        assert contents(split) == {image.tobytes() for image in random_images(9, seed=seed)}


def test_grey_images_keep_one_channel(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, random_images(30, channels=1), labels_in_turn(30))
    task = load_task(DataArguments(task=str(folder)))
    assert task.image_shape == (1, 8, 8)
    everything = contents(task.train) | contents(task.validation) | contents(task.test)
    assert everything == {image.tobytes() for image in random_images(30, channels=1)}
    check_model(build_model(task, ModelArguments(width=4), seed=0), task)


def test_transparency_is_dropped(tmp_path: Path) -> None:
    images = random_images(30, channels=4)
    task = load_task(DataArguments(task=str(write_folder(tmp_path, images, labels_in_turn(30)))))
    assert task.image_shape == (3, 8, 8)
    assert contents(task.train) <= {image[:3].tobytes() for image in images}
    assert task.notes[0].startswith("The alpha channel of 30 images was dropped")


@pytest.mark.parametrize("grey_at", [0, 17, 29])
def test_a_grey_image_among_coloured_ones_does_not_take_their_colours(tmp_path: Path, grey_at: int) -> None:
    pictures: list[Any] = list(random_images(30))
    pictures[grey_at] = random_images(1, channels=1)[0]
    task = load_task(DataArguments(task=str(write_parquet(tmp_path, {"train": (pictures, labels_in_turn(30))}))))
    assert task.image_shape == (3, 8, 8)
    everything = contents(task.train) | contents(task.validation) | contents(task.test)
    assert everything == {np.broadcast_to(image, (3, 8, 8)).tobytes() for image in pictures}
    assert task.notes[0] == "Grey images, 1 of them, were given three equal channels."


def test_a_grey_test_split_joins_a_coloured_training_split(tmp_path: Path) -> None:
    grey = random_images(6, channels=1)
    splits = {"train": (random_images(30), labels_in_turn(30)), "test": (grey, labels_in_turn(6))}
    task = load_task(DataArguments(task=str(write_parquet(tmp_path, splits))))
    np.testing.assert_array_equal(task.test.images, np.repeat(grey, 3, axis=1))


def test_sixteen_bit_images_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (30, 8, 8), dtype=np.uint16)
    for index, image in enumerate(deep):
        (tmp_path / CLASSES[index % 3]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / CLASSES[index % 3] / f"{index:04d}.png")
    task = load_task(DataArguments(task=str(tmp_path)))
    assert task.image_shape == (1, 8, 8)
    everything = contents(task.train) | contents(task.validation) | contents(task.test)
    assert everything == {(image >> 8).astype(np.uint8).tobytes() for image in deep}
    assert task.notes[0] == "Of 30 images of 16 bits the upper 8 are used."


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    sideways = np.zeros((30, 3, 8, 8), dtype=np.uint8)
    sideways[:, :, :4] = 255  # the upper half is white
    folder = write_folder(tmp_path / "plain", sideways, labels_in_turn(30), (".jpg",))
    for file in folder.glob("*/*.jpg"):
        image = Image.open(file)
        image.load()
        exif = image.getexif()
        exif[0x0112] = 6  # to be shown turned by a quarter clockwise
        image.save(file, exif=exif)
    turned = load_task(DataArguments(task=str(folder)))
    assert turned.train.images[0, 0, :, 7].min() > 200 and turned.train.images[0, 0, :, 0].max() < 50


def test_labels_that_are_names_or_numbers_become_indices(tmp_path: Path) -> None:
    images, names = random_images(30), [CLASSES[label] for label in labels_in_turn(30)]
    new = random_images(3, seed=1)
    splits: dict[str, tuple[np.ndarray, Any]] = {"train": (images, names), "test": (new, names[:3])}
    by_name = write_parquet(tmp_path / "names", splits, datasets.Value("string"))
    task = load_task(DataArguments(task=str(by_name), label_column_name="label"))
    assert task.label_names == CLASSES and task.test.labels.tolist() == [0, 1, 2]
    splits = {"train": (images, labels_in_turn(30) * 10), "test": (new, [0, 10, 20])}
    by_number = write_parquet(tmp_path / "numbers", splits, datasets.Value("int64"))
    task = load_task(DataArguments(task=str(by_number), label_column_name="label"))
    assert task.label_names == ("0", "10", "20") and task.test.labels.tolist() == [0, 1, 2]


def test_a_folder_that_changed_is_not_read_from_a_stale_cache(tmp_path: Path) -> None:
    images, labels = random_images(30), labels_in_turn(30)
    before = load_task(DataArguments(task=str(write_parquet(tmp_path, {"train": (images, labels)})))).description()
    images[0, 0, 0, 0] ^= 1
    after = load_task(DataArguments(task=str(write_parquet(tmp_path, {"train": (images, labels)})))).description()
    assert before != after


# ------------------------------------------------------------------------------------------------------------- splits


def test_splits_are_disjoint_and_hold_everything(tmp_path: Path) -> None:
    images = random_images(300)
    task = load_task(DataArguments(task=str(write_parquet(tmp_path, {"train": (images, labels_in_turn(300))}))))
    parts = [contents(split) for split in (task.train, task.validation, task.test)]
    assert sum(map(len, parts)) == 300
    assert set.union(*parts) == {image.tobytes() for image in images}
    assert [len(part) for part in parts] == [240, 30, 30]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.37])
def test_splits_hold_the_same_share_of_every_class(tmp_path: Path, share: float) -> None:
    labels = np.repeat([0, 1, 2], [100, 40, 10])
    folder = write_parquet(tmp_path, {"train": (random_images(150), labels)})
    task = load_task(DataArguments(task=str(folder), train_val_split=share))
    for split in (task.validation, task.test):
        counts = np.bincount(split.labels, minlength=3)
        assert np.abs(counts - share * np.array([100, 40, 10])).max() <= 1.0


def test_splits_are_a_function_of_the_split_seed() -> None:
    first, again, other = (load_task(DataArguments(split_seed=seed)) for seed in (1, 1, 2))
    assert first.description() == again.description()
    assert contents(first.validation) != contents(other.validation)
    assert contents(first.test) != contents(other.test)


def test_given_splits_are_used_as_they_are(tmp_path: Path) -> None:
    splits = {name: (random_images(12, seed=seed), labels_in_turn(12)) for seed, name in enumerate(("train", "test"))}
    task = load_task(DataArguments(task=str(write_parquet(tmp_path / "a", splits)), train_val_split=0.25))
    np.testing.assert_array_equal(task.test.images, splits["test"][0])
    assert len(task.train) + len(task.validation) == 12
    splits["validation"] = (random_images(5, seed=9), labels_in_turn(5))
    task = load_task(DataArguments(task=str(write_parquet(tmp_path / "b", splits))))
    for name, split in (("train", task.train), ("validation", task.validation), ("test", task.test)):
        np.testing.assert_array_equal(split.images, splits[name][0])
        np.testing.assert_array_equal(split.labels, splits[name][1])
    assert task.notes == ()


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_share_that_is_asked_for_is_the_share_that_is_held_out(share: float) -> None:
    task = load_task(DataArguments(train_val_split=share))
    assert len(task.validation) == pytest.approx(share * 1797, abs=10)
    assert len(task.test) == pytest.approx(share * 1797, abs=10)


def test_fewer_training_samples_leave_the_other_splits_alone(digits: Task) -> None:
    few = load_task(DataArguments(max_train_samples=100))
    assert len(few.train) == 100
    assert contents(few.train) < contents(digits.train)
    for name in ("validation", "test"):
        assert few.description()["splits"][name] == digits.description()["splits"][name]


def test_the_evaluated_samples_do_not_depend_on_the_training_samples() -> None:
    alone = load_task(DataArguments(max_eval_samples=50)).description()["splits"]
    together = load_task(DataArguments(max_eval_samples=50, max_train_samples=100)).description()["splits"]
    for name in ("validation", "test"):
        assert alone[name] == together[name]


def test_limits_cut_each_split_and_a_limit_beyond_it_changes_nothing(digits: Task) -> None:
    few = load_task(DataArguments(max_train_samples=100, max_eval_samples=50))
    assert (len(few.train), len(few.validation), len(few.test)) == (100, 50, 50)
    assert contents(few.validation) < contents(digits.validation)
    assert contents(few.test) < contents(digits.test)
    many = load_task(DataArguments(max_train_samples=10_000, max_eval_samples=10_000))
    assert many.description() == digits.description()


def test_notes_say_how_the_splits_came_about(digits: Task) -> None:
    assert len(digits.notes) == 2
    assert all("held out by class (seed 0)" in note for note in digits.notes)
    assert f"{len(digits.test)} of the 1,797" in digits.notes[0] and "test" in digits.notes[0]
    few = load_task(DataArguments(max_train_samples=100, max_eval_samples=50)).notes
    assert few[:2] == digits.notes
    assert few[2:] == (
        "Only 100 of 1,081 train examples are used.",
        f"Only 50 of {len(digits.validation)} validation examples are used.",
        f"Only 50 of {len(digits.test)} test examples are used.",
    )


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_description_changes_with_a_single_pixel_or_label(digits: Task, split: str) -> None:
    def described(change: Any) -> dict[str, Any]:
        task = load_task(DataArguments())
        change(getattr(task, split))
        return task.description()["splits"]

    def change_pixel(dataset: ImageDataset) -> None:
        dataset.images[7, 0, 3, 3] ^= 1

    def change_label(dataset: ImageDataset) -> None:
        dataset.labels[7] = (dataset.labels[7] + 1) % 10

    original = digits.description()["splits"]
    assert described(lambda dataset: None) == original
    for change in (change_pixel, change_label):
        changed = described(change)
        assert {name for name in original if changed[name] != original[name]} == {split}


def test_the_plan_of_a_stored_comparison_is_still_what_its_command_asks_for() -> None:
    """A comparison that an earlier version began goes on: nothing in what is recorded of a task may change."""
    stored = json.loads((CARDS / "digits-resnet18-w16" / "comparison.json").read_text())
    asked = parse_comparison(shlex.split(stored["command"])[2:])
    task = load_task(asked.data, asked.model)
    model = build_model(task, asked.model, asked.training.seed)
    assert json.dumps(task.description()) == json.dumps(stored["task"])
    recorded = {**model_record(task, asked.model), "num_parameters": model.num_parameters()}
    assert json.dumps(recorded) == json.dumps(stored["model"])
    assert recorded_training_arguments(asked.training) == stored["training"]
    assert list(task_spec(asked.data).targets) == stored["targets"]


def test_every_entry_of_the_table_names_itself_and_completes_the_flags() -> None:
    for name, spec in TASKS.items():
        assert spec.name == name
        metric = METRICS[spec.kind.metrics[0]]
        assert all(metric.above < target <= metric.at_most for target in spec.targets)
        assert all(hasattr(DataArguments(), flag) for flag in spec.data_defaults)
        for model, sizes in spec.model_defaults.items():
            assert MODELS[model].task is spec.kind and sizes.keys() <= MODELS[model].sizes.keys()
    assert task_spec(DataArguments(task="some/where")) is TASKS["images"]
    assert task_spec(DataArguments(task="cifar10", dataset_name="elsewhere")) is TASKS["images"]


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("flag", ["task", "dataset_name", "train_dir"])
def test_a_missing_folder_is_named(tmp_path: Path, flag: str) -> None:
    missing = str(tmp_path / "nothing")
    assert missing in error_of(**{flag: missing})


def test_a_validation_folder_alone_is_not_quietly_ignored(tmp_path: Path) -> None:
    folder = str(write_folder(tmp_path, random_images(9), labels_in_turn(9)))
    for flag in ("validation_dir", "test_dir"):
        assert "--train_dir" in error_of(**{flag: folder})


def test_a_data_set_and_image_folders_exclude_each_other(tmp_path: Path) -> None:
    folder = str(write_folder(tmp_path, random_images(9), labels_in_turn(9)))
    assert "--dataset_name" in error_of(dataset_name=folder, train_dir=folder)


def test_flags_that_the_digits_cannot_follow_are_not_quietly_ignored() -> None:
    for flag, value in (("image_size", 16), ("image_column_name", "img"), ("dataset_config_name", "plain")):
        assert f"--{flag}" in error_of(**{flag: value})


def test_a_folder_that_is_no_data_set_is_named(tmp_path: Path) -> None:
    assert str(tmp_path) in error_of(task=str(tmp_path))  # empty
    (tmp_path / "program.xyz").write_text("nothing to see")
    assert str(tmp_path) in error_of(task=str(tmp_path))


def test_a_table_without_images_is_refused_with_its_columns(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("length,width\n1,2\n3,4\n")
    message = error_of(task=str(tmp_path))
    assert "image" in message and "length, width" in message and "--image_column_name" in message


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    for index, image in enumerate(random_images(5)):
        picture(image).save(tmp_path / f"{index}.png")
    message = error_of(task=str(tmp_path))
    assert str(tmp_path) in message and "5 images and no folder of a class" in message
    assert "one subfolder per class" in message and "metadata.csv" in message
    assert "no column that could hold the labels" in message and "--label_column_name" in message


def test_a_data_set_without_a_training_split_is_refused(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path, {"test": (random_images(6), labels_in_turn(6))})
    message = error_of(task=str(folder))
    assert "no split named train, only test" in message


def test_an_unknown_column_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path, {"train": (random_images(30), labels_in_turn(30))})
    for flag in ("image_column_name", "label_column_name"):
        message = error_of(task=str(folder), **{flag: "colour"})
        assert "'colour'" in message and "img, label" in message


def test_columns_of_the_wrong_type_are_refused(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "swapped", {"train": (random_images(30), labels_in_turn(30))})
    assert "'label'" in error_of(task=str(folder), image_column_name="label")
    assert "'img'" in error_of(task=str(folder), label_column_name="img")
    folder = write_parquet(tmp_path / "real", {"train": (random_images(3), [0.5, 1.0, 2.0])}, datasets.Value("float32"))
    assert "class labels" in error_of(task=str(folder), label_column_name="label")


def test_a_corrupt_image_is_named_by_its_place(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, random_images(30), labels_in_turn(30))
    file = folder / "dog" / "0001.png"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"this is no image"):
        file.write_bytes(damaged)
        message = error_of(task=str(folder))
        assert "Image 10 of split train cannot be decoded (0001.png: " in message  # after the ten of class cat
        assert "buffer" not in message


def test_a_missing_image_is_named_by_its_place(tmp_path: Path) -> None:
    pictures = [{"bytes": png(image), "path": None} for image in random_images(4)]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    table = datasets.Dataset.from_dict({"img": [*pictures[:2], None], "label": [0, 1, 2]}, features=features)
    table.to_parquet(tmp_path / "train.parquet")
    assert "Image 2 of split train" in error_of(task=str(tmp_path))


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    picture(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path, {"train": (random_images(30), labels_in_turn(30))})
    file = next(folder.glob("data/*.parquet"))
    file.write_bytes(file.read_bytes()[:-200])
    assert str(folder) in error_of(task=str(folder))


def test_images_of_different_sizes_need_image_size(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, random_images(30), labels_in_turn(30))
    picture(random_images(1, size=9)[0]).save(folder / "frog" / "9999.png")
    message = error_of(task=str(folder))
    assert "9x9" in message and "8x8" in message and "--image_size" in message
    assert load_task(DataArguments(task=str(folder), image_size=8)).image_shape == (3, 8, 8)


def test_splits_of_different_sizes_need_image_size(tmp_path: Path) -> None:
    splits = {
        "train": (random_images(30), labels_in_turn(30)),
        "test": (random_images(6, size=10), labels_in_turn(6)),
    }
    folder = write_parquet(tmp_path, splits)
    message = error_of(task=str(folder))
    assert "train 3x8x8" in message and "test 3x10x10" in message and "--image_size" in message
    assert load_task(DataArguments(task=str(folder), image_size=8)).test.images.shape[1:] == (3, 8, 8)


def test_a_missing_or_impossible_label_is_named_by_its_place(tmp_path: Path) -> None:
    labels: list[Any] = labels_in_turn(30).tolist()
    labels[11] = None
    folder = write_parquet(tmp_path / "missing", {"train": (random_images(30), labels)})
    assert "Example 11 of split train has label None" in error_of(task=str(folder))
    labels[11] = -1
    folder = write_parquet(tmp_path / "hidden", {"train": (random_images(30), labels)})
    assert "Example 11 of split train has label -1" in error_of(task=str(folder))
    splits = {"train": (random_images(6), labels_in_turn(6)), "test": (random_images(2), [0, 7])}
    folder = write_parquet(tmp_path / "unseen", splits, datasets.Value("int64"))
    message = error_of(task=str(folder), label_column_name="label")
    assert "Example 1 of split test has label 7" in message


def test_too_few_examples_to_split_are_refused(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path, {"train": (random_images(3), labels_in_turn(3))})
    assert "too few examples (3)" in error_of(task=str(folder))


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    splits = {"train": (random_images(30), labels_in_turn(30)), "test": (random_images(0), [])}
    assert "test" in error_of(task=str(write_parquet(tmp_path, splits)))


@pytest.mark.parametrize("padding", [-1, 8, 100])
def test_a_crop_padding_beyond_the_image_is_refused(padding: int) -> None:
    message = error_of(crop_padding=padding)
    assert "--crop_padding" in message and str(padding) in message


@pytest.mark.parametrize("share", [0.0, 0.5, -0.1, math.nan])
def test_an_impossible_share_is_refused(share: float) -> None:
    assert "--train_val_split" in error_of(train_val_split=share)


@pytest.mark.parametrize("flag", ["max_train_samples", "max_eval_samples"])
@pytest.mark.parametrize("limit", [0, -5])
def test_a_limit_below_one_is_refused(flag: str, limit: int) -> None:
    assert f"--{flag} must be at least 1, got {limit}" in error_of(**{flag: limit})


@pytest.mark.parametrize("size", [0, -8])
def test_an_image_size_below_one_is_refused(tmp_path: Path, size: int) -> None:
    folder = write_folder(tmp_path, random_images(30), labels_in_turn(30))
    assert f"--image_size must be at least 1, got {size}" in error_of(task=str(folder), image_size=size)
