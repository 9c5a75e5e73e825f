"""Claims about vision transformers, from scratch and from checkpoints with their own image processors."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_critmom.commands import main
from hf_critmom.commands.compare import parse_comparison
from hf_critmom.tasks import (
    MODELS,
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DataArguments,
    ImageTask,
    ModelArguments,
    TaskError,
    build_model,
    check_model,
    load_task,
)

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL = ModelArguments(model="vit", patch_size=4, **SIZES)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def digits() -> ImageTask:
    return image_task_of()


def image_task_of(model: ModelArguments | None = None, **flags: Any) -> ImageTask:
    task = load_task(DataArguments(**flags), model)
    assert isinstance(task, ImageTask)
    return task


def saved_vit(folder: Path, processor: Any = None, *, channels: int = 3, size: int = 16, labels: int = 10) -> str:
    """A checkpoint of a tiny ViT, with an image processor or without."""
    torch.manual_seed(0)
    config = ViTConfig(
        **SIZES, intermediate_size=8, image_size=size, patch_size=8, num_channels=channels, num_labels=labels
    )
    ViTForImageClassification(config).save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return str(folder)


def processor_of(size: int = 16, **options: Any) -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": size, "width": size}, image_mean=MEAN, image_std=STD, **options)


def error_of(model: ModelArguments, **flags: Any) -> str:
    with pytest.raises(TaskError) as caught:
        task = image_task_of(model, **flags)
        check_model(build_model(task, model, seed=0), task)
    message = str(caught.value)
    assert "\n" not in message and message.endswith("."), message
    return message


def write_pictures(folder: Path, images: np.ndarray) -> Path:
    """An image folder of two classes in turn."""
    for index, image in enumerate(images):
        (folder / str(index % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / str(index % 2) / f"{index:03d}.png")
    return folder


def colours(count: int = 40, size: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------------- from scratch


def test_weights_are_a_function_of_the_seed_alone(digits: ImageTask) -> None:
    first = build_model(digits, SMALL, seed=3).state_dict()
    torch.rand(100)  # what was drawn in between must not matter
    again, other = (build_model(digits, SMALL, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    changed = {name for name in first if not torch.equal(first[name], other[name])}
    assert any("patch_embeddings" in name for name in changed) and any("classifier" in name for name in changed)


def test_the_model_is_made_for_the_tasks_images_and_classes(digits: ImageTask) -> None:
    model = build_model(digits, SMALL, seed=0)
    config = model.config
    assert (config.num_channels, tuple(config.image_size), config.patch_size, config.num_labels) == (1, (8, 8), 4, 10)
    assert config.id2label == dict(enumerate("0123456789"))
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (8, 32, 1)
    check_model(model, digits)
    batch = digits.train.__getitems__([0, 1])
    assert torch.equal(model.train()(**batch).logits, model(**batch).logits)  # no dropout


def test_flags_size_it_and_the_digits_have_smaller_patches() -> None:
    asked = parse_comparison(["--model", "vit"]).model
    assert asked.patch_size == 2 and asked.width is None
    assert (
        parse_comparison(["--model", "vit", "--task", "cifar10"]).model.patch_size == MODELS["vit"].sizes["patch_size"]
    )
    assert parse_comparison(["--model", "vit", "--patch_size", "8"]).model.patch_size == 8
    asked = parse_comparison([]).model
    assert (asked.width, asked.patch_size, asked.hidden_size) == (16, None, None)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"patch_size": 3}, ("8x8", "patches of 3", "--patch_size")),
        ({"patch_size": 0}, ("patches of 0",)),
        ({"width": 16}, ("--width", "vit", "--hidden_size")),
        ({"hidden_size": 9}, ("--hidden_size 9", "--num_attention_heads 2")),
        ({"model": "gpt2"}, ("'gpt2'", "resnet18", "vit")),
        ({"model": "resnet18"}, ("--hidden_size", "resnet18", "--width")),
    ],
)
def test_a_model_that_cannot_be_is_refused(digits: ImageTask, flags: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(TaskError) as caught:
        build_model(digits, ModelArguments(**{**vars(SMALL), **flags}), seed=0)
    assert all(word in str(caught.value) for word in words) and str(caught.value).endswith(".")


# ----------------------------------------------------------------------------------- checkpoints and their processors


@pytest.mark.parametrize(
    "processor",
    [
        processor_of(),
        processor_of(resample=3),
        processor_of(8, do_resize=False),
        processor_of(do_normalize=False),
        processor_of(rescale_factor=1.0 / 127.5),
    ],
    ids=["as usual", "bicubic", "not resized", "not normalised", "rescaled"],
)
def test_pixels_are_what_the_checkpoints_processor_makes_of_the_pictures(tmp_path: Path, processor: Any) -> None:
    size = 16 if processor.do_resize else 8
    model = ModelArguments(model_name_or_path=saved_vit(tmp_path / "saved", processor, size=size, labels=2))
    task = image_task_of(model, train_dir=str(write_pictures(tmp_path / "pictures", colours())), crop_padding=0)
    for split in (task.train, task.validation, task.test):
        pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in split.images]
        expected = AutoImageProcessor.from_pretrained(tmp_path / "saved")(images=pictures, return_tensors="pt")
        if split.augmentation is None:
            found = split.__getitems__(range(len(split)))["pixel_values"]
            assert found.dtype == torch.float32 and found.shape[1:] == (3, size, size)
            torch.testing.assert_close(found, expected["pixel_values"], rtol=1e-5, atol=1e-5)
    check_model(build_model(task, model, seed=0), task)
    assert task.image_shape == (3, 8, 8) and task.notes[0].startswith("The test split")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_classifier_of_timm_brings_its_own_transforms(tmp_path: Path, channels: int) -> None:
    size, mean = [channels, 16, 16], [0.25] * channels
    settings = {"input_size": size, "mean": mean, "std": [0.5] * channels, "interpolation": "bicubic", "crop_pct": 1.0}
    options = {"architecture": "test_resnet", "model_args": {"in_chans": channels}, "num_classes": 10}
    config = TimmWrapperConfig.from_dict({**options, "pretrained_cfg": settings})
    TimmWrapperForImageClassification(config).save_pretrained(tmp_path)
    model = ModelArguments(model_name_or_path=str(tmp_path))
    task = image_task_of(model)
    pixels = task.test.__getitems__(range(5))["pixel_values"]
    assert pixels.shape == (5, channels, 16, 16)
    pictures = [Image.fromarray(image[0]).resize((16, 16), Image.Resampling.BICUBIC) for image in task.test.images[:5]]
    expected = (np.stack([np.asarray(picture) for picture in pictures])[:, None] / 255.0 - 0.25) / 0.5
    np.testing.assert_allclose(pixels.numpy(), np.repeat(expected, channels, axis=1), atol=1e-5)
    assert task.description()["processor"]["image_processor_type"] == "TimmWrapperImageProcessor"
    check_model(build_model(task, model, seed=0), task)


def test_the_saved_processor_is_the_checkpoints(tmp_path: Path) -> None:
    model = ModelArguments(model_name_or_path=saved_vit(tmp_path / "saved", processor_of()))
    task = image_task_of(model)
    task.processor.save_pretrained(tmp_path / "again")
    first, second = (
        json.loads((tmp_path / name / "preprocessor_config.json").read_text()) for name in ("saved", "again")
    )
    assert first == second
    described = task.description()
    assert described["processor"]["image_mean"] == list(MEAN) and json.loads(json.dumps(described)) == described


def test_augmentation_comes_before_the_processor(tmp_path: Path) -> None:
    model = ModelArguments(model_name_or_path=saved_vit(tmp_path / "saved", processor_of()))
    augmented, plain = image_task_of(model), image_task_of(model, crop_padding=0)
    batch = augmented.train.augmentation(plain.train.images[:5], np.arange(5), 0)  # type: ignore[misc]
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in batch]
    expected = augmented.processor(images=pictures, return_tensors="pt")["pixel_values"]
    assert torch.equal(augmented.train.__getitems__(range(5))["pixel_values"], expected)


def test_from_scratch_the_data_decides(digits: ImageTask) -> None:
    assert digits.train.processor is None and "processor" not in digits.description()
    mean = digits.train.images.mean() / 255.0
    assert digits.processor.image_mean == pytest.approx([mean])


def test_grey_images_become_coloured_for_a_model_of_colours(tmp_path: Path, digits: ImageTask) -> None:
    task = image_task_of(ModelArguments(model_name_or_path=saved_vit(tmp_path, processor_of())))
    np.testing.assert_array_equal(task.test.images, np.repeat(digits.test.images, 3, axis=1))
    assert task.image_shape == (3, 8, 8) and any("grey" in note for note in task.notes)


def test_coloured_images_are_no_input_for_a_grey_model(tmp_path: Path) -> None:
    folder = str(write_pictures(tmp_path / "pictures", colours()))
    model = ModelArguments(model_name_or_path=saved_vit(tmp_path / "saved", channels=1, size=8))
    assert "1 channel and these have 3" in error_of(model, train_dir=folder)


def test_without_a_processor_the_data_decides_and_a_note_says_so(tmp_path: Path, digits: ImageTask) -> None:
    task = image_task_of(ModelArguments(model_name_or_path=saved_vit(tmp_path, channels=1, size=8)))
    assert any("no image processor" in note for note in task.notes)
    for index in range(3):
        assert torch.equal(task.test[index]["pixel_values"], digits.test[index]["pixel_values"])


def test_images_of_another_size_than_the_model_takes_are_refused(tmp_path: Path) -> None:
    for processor in (None, processor_of(8), processor_of(do_resize=False)):
        checkpoint = saved_vit(tmp_path / str(id(processor)), processor, channels=3)
        assert "(3, 8, 8)" in error_of(ModelArguments(model_name_or_path=checkpoint))


def test_a_damaged_processor_is_not_passed_over(tmp_path: Path) -> None:
    checkpoint = saved_vit(tmp_path, processor_of())
    file = tmp_path / "preprocessor_config.json"
    for content in (file.read_text()[:-20], json.dumps({"image_processor_type": "UnheardOf"})):
        file.write_text(content)
        assert checkpoint in error_of(ModelArguments(model_name_or_path=checkpoint))


def test_a_run_folder_of_our_own_brings_its_statistics_along(tmp_path: Path, digits: ImageTask) -> None:
    config = CifarResNetConfig(width=2, num_channels=1, image_size=8, num_labels=10)
    CifarResNetForImageClassification(config).save_pretrained(tmp_path)
    digits.processor.save_pretrained(tmp_path)
    task = image_task_of(ModelArguments(model_name_or_path=str(tmp_path)))
    found, expected = (one.test.__getitems__(range(50))["pixel_values"] for one in (task, digits))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_tokenizer_has_no_meaning_for_images() -> None:
    assert "--tokenizer_name has no meaning" in error_of(ModelArguments(tokenizer_name="gpt2"))


# -------------------------------------------------------------------------------------------------------- comparisons

TINY = (
    *(
        "--max_train_samples",
        "64",
        "--max_eval_samples",
        "32",
        "--per_device_train_batch_size",
        "32",
        "--max_steps",
        "4",
    ),
    *("--arms", "critmom", "adamw", "--num_seeds", "1", "--use_cpu", "--targets", "0.05"),
    *("--eval_strategy", "steps", "--eval_steps", "2"),
)


def compared(folder: Path, patch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    """Runs a comparison that must succeed; returns the result of its first arm."""
    out = io.StringIO()
    patch.setenv("COLUMNS", "200")
    patch.setattr(sys, "stdout", out)
    assert main(("compare", *TINY, *words, "--output_dir", str(folder))) == 0
    assert "test accuracy" in out.getvalue()
    return json.loads((folder / "runs" / "critmom" / "seed-42" / "result.json").read_text())


def accuracy_of_saved(folder: Path, task: ImageTask, pictures: list[Image.Image]) -> float:
    """Accuracy on the test pictures of what a run saved: model and processor through the Auto classes."""
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        predicted = model(**processor(images=pictures, return_tensors="pt")).logits.argmax(-1).numpy()
    return float((predicted == task.test.labels).mean())


def test_a_vit_from_scratch_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [word for name, size in SIZES.items() for word in (f"--{name}", str(size))]
    result = compared(tmp_path, monkeypatch, "--model", "vit", *sizes)
    plan = json.loads((tmp_path / "comparison.json").read_text())
    assert plan["model"] == {
        "model": "vit",
        **SIZES,
        "patch_size": 2,
        "num_parameters": plan["model"]["num_parameters"],
    }
    task = image_task_of(max_train_samples=64, max_eval_samples=32)
    pictures = [Image.fromarray(image[0]) for image in task.test.images]
    found = accuracy_of_saved(tmp_path / "runs" / "critmom" / "seed-42", task, pictures)
    assert result["test"]["accuracy"] == pytest.approx(found, abs=1e-12)


def test_a_checkpoint_is_fine_tuned_and_saved_with_its_own_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = saved_vit(tmp_path / "saved", processor_of())
    result = compared(tmp_path / "out", monkeypatch, "--model_name_or_path", checkpoint)
    task = image_task_of(max_train_samples=64, max_eval_samples=32)
    pictures = [Image.fromarray(image[0]).convert("RGB") for image in task.test.images]
    found = accuracy_of_saved(tmp_path / "out" / "runs" / "critmom" / "seed-42", task, pictures)
    assert result["test"]["accuracy"] == pytest.approx(found, abs=1e-12)
    plan = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert plan["task"]["processor"]["size"] == {"height": 16, "width": 16}
    assert any("grey" in note for note in plan["task"]["notes"])
