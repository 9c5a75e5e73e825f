"""Claims about checkpoints: number type of the weights, code of their own, and the loss that they were trained with."""

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageClassification,
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)
from transformers.modeling_outputs import ImageClassifierOutput

from hf_critmom import attribute_gradients
from hf_critmom.commands import main
from hf_critmom.tasks import (
    CheckpointArguments,
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DataArguments,
    ImageTask,
    ModelArguments,
    TaskError,
    build_model,
    check_model,
    completed_record,
    load_checkpoint,
    load_task,
    load_task_of,
    model_record,
)
from hf_critmom.tasks.pretrained import load_pretrained

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


@pytest.fixture(scope="module")
def digits() -> ImageTask:
    task = load_task(DataArguments(max_train_samples=200, max_eval_samples=100))
    assert isinstance(task, ImageTask)
    return task


def saved_vit(folder: Path, dtype: torch.dtype = torch.float32, *, labels: int = 10, **config: Any) -> str:
    """A tiny vision transformer for digits, stored in a number type."""
    torch.manual_seed(0)
    settings = {**SIZES, "image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": labels, **config}
    ViTForImageClassification(ViTConfig(**settings)).to(dtype).save_pretrained(folder)
    return str(folder)


def saved_gpt2(folder: Path, dtype: torch.dtype) -> str:
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=259, n_positions=64)
    GPT2LMHeadModel(config).to(dtype).save_pretrained(folder)
    ByT5Tokenizer(extra_ids=0).save_pretrained(folder)
    return str(folder)


def sentence(error: Exception) -> str:
    message = str(error)
    assert "\n" not in message and message.endswith("."), message
    return message


def changed(before: Path, after: Path) -> float:
    """Share of the weights that differ."""
    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    old = {name.replace("vit.layers.", "vit.encoder.layer."): value for name, value in old.items()}
    new = {name.replace("vit.layers.", "vit.encoder.layer."): value for name, value in new.items()}
    assert old.keys() == new.keys()
    differing = sum(int((old[name].float() != new[name].float()).sum()) for name in old)
    return differing / sum(value.numel() for value in old.values())


def compared(folder: Path, patch: pytest.MonkeyPatch, *argv: str) -> str:
    """Runs a short comparison that must succeed; returns what it printed."""
    out, err = io.StringIO(), io.StringIO()
    patch.setattr(sys, "stdout", out)
    patch.setattr(sys, "stderr", err)
    small = ("--max_train_samples", "64", "--max_eval_samples", "32", "--max_steps", "4", "--arms", "constant")
    run = ("--num_seeds", "1", "--use_cpu", "--per_device_train_batch_size", "16", "--output_dir", str(folder))
    assert main(("compare", *small, *run, *argv)) == 0, err.getvalue()
    return out.getvalue()


# -------------------------------------------------------------------------------------------------------- number types


@HALF
def test_a_checkpoint_in_half_precision_is_loaded_in_float32(
    tmp_path: Path, digits: ImageTask, dtype: torch.dtype
) -> None:
    saved = saved_vit(tmp_path, dtype)
    stored = str(dtype).removeprefix("torch.")
    for flag, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("auto", dtype)):
        arguments = ModelArguments(model_name_or_path=saved, dtype=flag)
        model = build_model(digits, arguments, seed=0)
        assert {parameter.dtype for parameter in model.parameters()} == {expected}
        assert {p.dtype for p in load_checkpoint(saved, digits, CheckpointArguments(flag))[0].parameters()} == {
            expected
        }
        record = model_record(digits, arguments)
        assert len(record.pop("checkpoint_sha256")) == 64
        assert record == {
            "model_name_or_path": Path(saved).name,
            "dtype": str(expected).removeprefix("torch."),
            "stored_dtype": stored,
        }


def test_a_language_model_in_half_precision_is_loaded_in_float32(tmp_path: Path) -> None:
    saved = saved_gpt2(tmp_path / "saved", torch.bfloat16)
    data = DataArguments(task="text", block_size=32, max_train_samples=20, max_eval_samples=10)
    arguments = ModelArguments(model_name_or_path=saved)
    task = load_task(data, arguments)
    assert build_model(task, arguments, seed=0).dtype == torch.float32
    assert load_checkpoint(saved, load_task_of(saved, data))[0].dtype == torch.float32


def test_fine_tuning_a_half_precision_checkpoint_moves_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = saved_vit(tmp_path / "saved", torch.bfloat16)
    argv = ("--model_name_or_path", saved, "--learning_rate", "1e-4")
    printed = compared(tmp_path / "out", monkeypatch, *argv)
    run = tmp_path / "out" / "runs" / "constant" / "seed-42"
    assert changed(Path(saved), run) > 0.9
    assert {value.dtype for value in load_file(run / "model.safetensors").values()} == {torch.float32}
    plan = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert (plan["model"]["dtype"], plan["model"]["stored_dtype"]) == ("float32", "bfloat16")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "dtype float32" in card and "stored_dtype bfloat16" in card

    assert compared(tmp_path / "out", monkeypatch, *argv) == printed
    compared(tmp_path / "as stored", monkeypatch, *argv, "--dtype", "auto")
    run = tmp_path / "as stored" / "runs" / "constant" / "seed-42"
    assert changed(Path(saved), run) < 0.5
    assert json.loads((tmp_path / "as stored" / "comparison.json").read_text())["model"]["dtype"] == "bfloat16"

    assert main(("compare", *argv, "--dtype", "auto", "--max_steps", "4", "--output_dir", str(tmp_path / "out"))) == 2


def test_a_folder_from_before_number_types_were_recorded_continues_where_they_are_the_same() -> None:
    old = {"model_name_or_path": "x/y", "num_parameters": 7}
    for stored, dtype, same in (("float32", "float32", True), ("bfloat16", "float32", False)):
        current = {**old, "dtype": dtype, "stored_dtype": stored}
        assert (completed_record(old, current) == current) is same
    assert completed_record(old, {**old, "dtype": "float32"}) == {**old, "dtype": "float32"}
    scratch = {"model": "resnet18", "width": 16}
    assert completed_record(scratch, {**scratch, "dtype": "bfloat16"}) == scratch


def test_a_checkpoint_in_a_folder_is_known_by_its_files_wherever_it_lies(
    tmp_path: Path, digits: ImageTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = Path(saved_vit(tmp_path / "here"))
    (tmp_path / "there").mkdir()
    moved = Path(shutil.copytree(saved, tmp_path / "there" / saved.name))
    record = model_record(digits, ModelArguments(model_name_or_path=str(saved)))
    monkeypatch.chdir(moved)
    for path in (str(moved), ".", os.path.relpath(saved)):
        assert model_record(digits, ModelArguments(model_name_or_path=path)) == record
    assert str(tmp_path) not in json.dumps(record)
    early = {"model_name_or_path": str(saved), "num_parameters": 7}  # written when a checkpoint was known by its path
    current = {**record, "num_parameters": 7}
    assert completed_record(early, current) == current
    (moved / "model.safetensors").write_bytes(b"other")
    assert completed_record(early, current) != model_record(digits, ModelArguments(model_name_or_path=str(moved)))


@pytest.mark.parametrize("model", ["resnet18", "vit"])
def test_models_from_scratch_take_the_number_type_too(digits: ImageTask, model: str) -> None:
    sizes = {"width": 2} if model == "resnet18" else {"hidden_size": 8, "num_attention_heads": 2, "patch_size": 4}
    plain = ModelArguments(model=model, **sizes)  # type: ignore[arg-type]
    half = ModelArguments(model=model, dtype="bfloat16", **sizes)  # type: ignore[arg-type]
    network = build_model(digits, half, seed=0)
    assert network.dtype == torch.bfloat16
    check_model(network, digits)
    assert model_record(digits, half) == {**model_record(digits, plain), "dtype": "bfloat16"}
    auto = ModelArguments(model=model, dtype="auto", **sizes)  # type: ignore[arg-type]
    assert build_model(digits, auto, seed=0).dtype == torch.float32
    assert model_record(digits, auto) == model_record(digits, plain)


def test_an_unknown_number_type_is_answered_with_the_known_ones(
    digits: ImageTask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in ({"width": 2}, {"model_name_or_path": saved_vit(tmp_path)}):
        with pytest.raises(TaskError, match="Unknown --dtype 'int8': choose one of float32, bfloat16, float16, auto"):
            build_model(digits, ModelArguments(dtype="int8", **model), seed=0)  # type: ignore[arg-type]
    assert main(("compare", "--dtype", "int8")) == 2
    shown = capsys.readouterr().err
    assert "--dtype" in shown and "bfloat16" in shown and shown.count("\n") == 1


def test_a_model_that_cannot_compute_in_a_number_type_is_refused(digits: ImageTask) -> None:
    class Strict(CifarResNetForImageClassification):
        def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
            return super().forward(self.resnet.conv1(pixel_values), **kwargs)

    config = CifarResNetConfig(width=2, num_channels=1, num_labels=10)
    with pytest.raises(TaskError) as caught:
        check_model(Strict(config).to(torch.bfloat16), digits)
    assert "leave --dtype at float32" in sentence(caught.value)


@HALF
def test_attribution_works_on_weights_in_half_precision(tmp_path: Path, digits: ImageTask, dtype: torch.dtype) -> None:
    loading = CheckpointArguments("auto")
    model, task = load_checkpoint(saved_vit(tmp_path, dtype), digits, loading)
    assert model.dtype == dtype
    loader = torch.utils.data.DataLoader(task.validation, 50, collate_fn=task.collator)
    found = attribute_gradients(model.eval(), loader)
    shares = [group.share for group in found.groups.values()]
    assert np.isfinite(shares).all() and sum(shares) == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_attribute_takes_a_checkpoint_in_half_precision(
    tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = saved_vit(tmp_path / "saved", torch.bfloat16)
    argv = ("attribute", saved, "--max_eval_samples", "60", "--use_cpu", "--dtype", dtype)
    for _ in range(2):
        assert main((*argv, "--output_dir", str(tmp_path / "out"))) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "attribution.json").read_text())["settings"]["dtype"] == dtype


# ------------------------------------------------------------------------------------------------ code of a checkpoint

CODE = """
from pathlib import Path
from transformers import ByT5Tokenizer, PreTrainedConfig, ViTConfig, ViTForImageClassification, ViTImageProcessor
Path({marker!r}).write_text("ran")
class OwnConfig(ViTConfig):
    model_type = "own_vit"
class OwnForImageClassification(ViTForImageClassification):
    config_class = OwnConfig
class OwnProcessor(ViTImageProcessor):
    pass
class OwnTokenizer(ByT5Tokenizer):
    pass
"""


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that code of a checkpoint writes when it runs; nobody is there to answer a prompt."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *question: pytest.fail(f"prompted: {question}"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "marker"


def with_code(folder: Path, marker: Path, file: str, content: dict[str, Any]) -> str:
    """Adds code to a checkpoint, and names in one of its files what it defines."""
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    path = folder / file
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **content}))
    return str(folder)


def test_a_model_with_code_of_its_own_is_refused_without_a_prompt(
    tmp_path: Path, marker: Path, digits: ImageTask
) -> None:
    folder = tmp_path / "saved"
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForImageClassification": "own.OwnForImageClassification"}
    saved = with_code(Path(saved_vit(folder)), marker, "config.json", {"auto_map": names, "model_type": "own_vit"})
    data = DataArguments(max_train_samples=50, max_eval_samples=20)
    for load in (
        lambda: load_task(data, ModelArguments(model_name_or_path=saved)),
        lambda: build_model(digits, ModelArguments(model_name_or_path=saved), seed=0),
        lambda: load_checkpoint(saved, digits),
    ):
        with pytest.raises(TaskError) as caught:
            load()
        assert "--trust_remote_code" in sentence(caught.value) and saved in str(caught.value)
    assert not marker.exists()
    trusted = ModelArguments(model_name_or_path=saved, trust_remote_code=True)
    task = load_task(data, trusted)
    check_model(build_model(task, trusted, seed=0), task)
    assert marker.exists()


def test_a_processor_with_code_of_its_own_is_refused_without_a_prompt(
    tmp_path: Path, marker: Path, digits: ImageTask
) -> None:
    folder = tmp_path / "saved"
    saved_vit(folder)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    names = {"auto_map": {"AutoImageProcessor": "own.OwnProcessor"}, "image_processor_type": "OwnProcessor"}
    saved = with_code(folder, marker, "preprocessor_config.json", names)
    with pytest.raises(TaskError, match="--trust_remote_code"):
        load_task(DataArguments(), ModelArguments(model_name_or_path=saved))
    with pytest.raises(TaskError, match="--trust_remote_code"):
        load_checkpoint(saved, digits)
    assert not marker.exists()


def test_a_tokenizer_with_code_of_its_own_is_refused_without_a_prompt(tmp_path: Path, marker: Path) -> None:
    folder = tmp_path / "saved"
    saved_gpt2(folder, torch.float32)
    names = {"auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}, "tokenizer_class": "OwnTokenizer"}
    saved = with_code(folder, marker, "tokenizer_config.json", names)
    with pytest.raises(TaskError, match="--trust_remote_code"):
        load_task(DataArguments(task="text"), ModelArguments(model_name_or_path=saved))
    assert not marker.exists()


def test_attribute_and_repair_name_the_flag(tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForImageClassification": "own.OwnForImageClassification"}
    content = {"auto_map": names, "model_type": "own_vit"}
    saved = with_code(Path(saved_vit(tmp_path / "saved")), marker, "config.json", content)
    capsys.readouterr()  # the progress of saving
    for command in ("attribute", "repair"):
        assert main((command, saved, "--output_dir", str(tmp_path / command))) == 2
        shown = capsys.readouterr().err
        assert "--trust_remote_code" in shown and shown.count("\n") == 1
    assert not marker.exists()


# -------------------------------------------------------------------------------------------------- losses of their own


@pytest.mark.parametrize("problem_type", ["regression", "multi_label_classification"])
@pytest.mark.parametrize("labels", [10, 2, 1])
def test_the_loss_in_fine_tuning_is_ours_whatever_the_checkpoint_was_trained_for(
    tmp_path: Path, digits: ImageTask, problem_type: str, labels: int
) -> None:
    saved = saved_vit(tmp_path, labels=labels, problem_type=problem_type)
    model = build_model(digits, ModelArguments(model_name_or_path=saved), seed=0).eval()
    check_model(model, digits)
    batch = digits.train.__getitems__(range(8))
    outputs = model(**batch)
    torch.testing.assert_close(outputs.loss, torch.nn.functional.cross_entropy(outputs.logits, batch["labels"]))
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "again")
    assert again.config.problem_type == "single_label_classification"


@pytest.mark.parametrize("problem_type", ["regression", "multi_label_classification"])
def test_a_checkpoint_of_another_problem_is_not_attributed_or_repaired(
    tmp_path: Path, digits: ImageTask, problem_type: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = saved_vit(tmp_path / "saved", problem_type=problem_type)
    with pytest.raises(TaskError) as caught:
        load_checkpoint(saved, digits)
    assert problem_type.replace("_", " ") in sentence(caught.value)
    for command in ("attribute", "repair"):
        assert main((command, saved, "--output_dir", str(tmp_path / command))) == 2
        assert "problem_type" in capsys.readouterr().err


def test_a_model_of_one_output_is_not_attributed(tmp_path: Path, digits: ImageTask) -> None:
    with pytest.raises(TaskError, match="1 class"):
        load_checkpoint(saved_vit(tmp_path, labels=1), digits)


class Regression(PreTrainedModel):
    """A model whose loss takes labels as numbers, which broadcasts where rows and columns are equally many."""

    config_class = CifarResNetConfig

    def __init__(self, outputs: int) -> None:
        super().__init__(CifarResNetConfig(num_labels=2))
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.outputs = outputs

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> ImageClassifierOutput:
        logits = self.scale * pixel_values.mean() * torch.ones(len(pixel_values), self.outputs)
        assert labels is not None
        return ImageClassifierOutput(loss=((logits - labels.float()) ** 2).mean(), logits=logits)


def two_classes(digits: ImageTask, folder: Path) -> ImageTask:
    from PIL import Image

    for index in range(40):
        (folder / str(index % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.train.images[index, 0]).save(folder / str(index % 2) / f"{index}.png")
    task = load_task(DataArguments(train_dir=str(folder)))
    assert isinstance(task, ImageTask)
    return task


def test_shapes_that_fit_by_accident_are_found_out(tmp_path: Path, digits: ImageTask) -> None:
    task = two_classes(digits, tmp_path)
    for outputs in (1, 2):
        with pytest.raises(TaskError) as caught:
            check_model(Regression(outputs), task)
        assert "Regression" in sentence(caught.value)
    with pytest.raises(TaskError, match=r"logits of shape \(2, 1\)"):
        check_model(Regression(1), digits)


def test_a_folder_of_checkpoints_is_answered_with_some_of_them(tmp_path: Path, digits: ImageTask) -> None:
    """As that of a comparison, whose runs lie below it."""
    for seed in (42, 43, 44):
        saved_vit(tmp_path / "out" / "runs" / "adamw" / f"seed-{seed}")
    with pytest.raises(TaskError) as caught:
        load_checkpoint(str(tmp_path / "out"), digits)
    runs = tmp_path / "out" / "runs" / "adamw"
    assert str(caught.value) == (
        f"'{tmp_path / 'out'}' is not a checkpoint itself: name one of those in it, such as {runs / 'seed-42'}, "
        f"{runs / 'seed-43'} and 1 more."
    )


def test_a_checkpoint_with_a_pipe_in_it_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(
        TaskError, match=r"config\.json is not a regular file, and reading it may never end: remove it\."
    ):
        load_pretrained(AutoModelForImageClassification, str(tmp_path), "image classifier", CheckpointArguments())


def test_a_checkpoint_whose_name_holds_a_token_is_refused_since_names_are_recorded(tmp_path: Path) -> None:
    for name in (f"{tmp_path}/run-hf_{'abcDEF123' * 4}/seed-42", "https://user:pass@host/x"):
        with pytest.raises(TaskError, match=r"holds what looks like .*, and names are recorded: rename it"):
            load_pretrained(AutoModelForImageClassification, name, "image classifier", CheckpointArguments())
    commit = "/cache/models--google--vit/snapshots/" + "0123456789abcdef" * 2 + "01234567"
    with pytest.raises(TaskError, match="No image classifier could be loaded"):
        load_pretrained(AutoModelForImageClassification, commit, "image classifier", CheckpointArguments())
