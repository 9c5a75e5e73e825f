"""Claims about the training scripts in ``scripts/``: plain Transformers, and ``hf-critmom run`` adds the optimizers."""

import ast
import json
import re
import runpy
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hf_critmom.commands import main

SCRIPTS = Path(__file__).parents[2] / "scripts"
RUN = ["-m", "hf_critmom", "run"]
CLM = str(SCRIPTS / "run_clm.py")
IMAGES = str(SCRIPTS / "run_image_classification.py")

# Dropout stays on: a resumed run must restore the random numbers too.
TRAIN_LM = {
    "model_type": "gpt2",
    "config_overrides": "n_layer=1,n_head=2,n_embd=16,n_positions=32",
    "tokenizer_name": "bytes",
    "train_file": "a corpus/all the words.txt",
    "block_size": 16,
    "max_train_samples": 64,
    "max_eval_samples": 8,
    "optim": "critmom_adamw",
    "optim_args": "rule=ema, hold=0.95",
    "learning_rate": 0.01,
    "per_device_train_batch_size": 4,
    "max_steps": 6,
    "save_steps": 3,
    "logging_steps": 1,
    "do_train": True,
    "do_eval": True,
    "use_cpu": True,
    "disable_tqdm": True,
}
SMALL_VIT = "image_size=16,patch_size=8,hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"


def flags_as_args(flags, **others):
    """Flags as command-line arguments."""
    return [word for name, value in {**flags, **others}.items() for word in (f"--{name}", str(value))]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Datasets are cached in a folder of the test."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def corpus(tmp_path):
    """A text file, with spaces in its path."""
    path = tmp_path / TRAIN_LM["train_file"]
    path.parent.mkdir()
    path.write_text("".join(f"{i} bottles of beer on the wall,\n" for i in range(99)))
    return path


@pytest.fixture
def pictures(tmp_path):
    """Image folders whose classes differ in colour."""
    draws = np.random.default_rng(0)
    for split, examples in (("train", 12), ("validation", 6)):
        for channel, name in enumerate(("red", "green", "dark blue")):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(examples):
                pixels = draws.integers(0, 99, (20, 16, 3), dtype=np.uint8)
                pixels[..., channel] += 150
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "pictures"


@pytest.mark.slow
def test_an_interrupted_run_continues_to_the_same_weights(tmp_path, corpus, run_python):
    finished = run_python(*RUN, CLM, *flags_as_args(TRAIN_LM, output_dir="whole run"))
    assert finished.returncode == 0, finished.stderr
    optimizer = torch.load(tmp_path / "whole run/checkpoint-6/optimizer.pt", weights_only=True)
    (group, _) = optimizer["param_groups"]
    assert (group["rule"], group["hold"]) == ("ema", 0.95)
    assert {state["num_steps"] for state in optimizer["state"].values()} == {6}

    # What a run killed while it saved its second checkpoint leaves, and the same arguments, now from a file.
    shutil.copytree(tmp_path / "whole run/checkpoint-3", tmp_path / "broken off/checkpoint-3")
    (tmp_path / "broken off/checkpoint-6").mkdir()
    (tmp_path / "the arguments.json").write_text(json.dumps({**TRAIN_LM, "output_dir": "broken off"}))
    finished = run_python(*RUN, CLM, "the arguments.json")
    assert finished.returncode == 0, finished.stderr
    states = [json.loads((tmp_path / name / "trainer_state.json").read_text()) for name in ("whole run", "broken off")]
    losses = [[record["loss"] for record in state["log_history"] if "loss" in record] for state in states]
    assert len(losses[0]) == 6
    assert losses[0] == losses[1]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole run", "broken off")]
    assert weights[0] == weights[1]

    results = json.loads((tmp_path / "broken off/all_results.json").read_text())
    assert results["perplexity"] == pytest.approx(np.exp(results["eval_loss"]))
    assert 0.0 <= results["eval_accuracy"] <= 1.0
    card = (tmp_path / "broken off/README.md").read_text()
    assert "trained from scratch" in card
    assert "- optimizer: CritMomAdamW(" in card and "rule=ema" in card and "hold=0.95" in card


@pytest.mark.slow
def test_two_processes_share_the_data(tmp_path, corpus, run_python):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    finished = run_python(*torchrun, *RUN, CLM, *flags_as_args(TRAIN_LM, output_dir="two"))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("train metrics") == 1
    results = json.loads((tmp_path / "two/all_results.json").read_text())
    assert results["epoch"] == 2 * 4 * 6 / 64
    assert results["eval_loss"] > 0.0


@pytest.mark.slow
def test_images_are_learnt_and_the_saved_model_is_the_evaluated_one(tmp_path, pictures, run_python):
    accelerate = ["-m", "accelerate.commands.launch", "--num_processes", "1"]
    flags = {"do_eval": True, "use_cpu": True, "disable_tqdm": True}
    train = flags_as_args(
        flags, model_type="vit", config_overrides=SMALL_VIT, do_train=True, optim="critmom", max_steps=20
    )
    folders = flags_as_args(
        {}, train_dir=pictures / "train", validation_dir=pictures / "validation", output_dir="trained"
    )
    finished = run_python(*accelerate, *RUN, IMAGES, *train, *folders, "--learning_rate", "0.05")
    assert finished.returncode == 0, finished.stderr
    trained = json.loads((tmp_path / "trained/all_results.json").read_text())
    assert trained["eval_accuracy"] > 0.6
    assert f"value: {trained['eval_accuracy']}" in (tmp_path / "trained/README.md").read_text()

    # Without hf-critmom: a script of somebody else's, and a model like any other.
    words = flags_as_args(flags, model_name_or_path="trained", dataset_name=pictures, output_dir="evaluated")
    finished = run_python(IMAGES, *words)
    assert finished.returncode == 0, finished.stderr
    evaluated = json.loads((tmp_path / "evaluated/all_results.json").read_text())
    assert evaluated["eval_loss"] == pytest.approx(trained["eval_loss"], rel=1e-6)
    assert evaluated["eval_accuracy"] == trained["eval_accuracy"]
    config = json.loads((tmp_path / "trained/config.json").read_text())
    assert set(config["label2id"]) == {"red", "green", "dark blue"}


@pytest.mark.slow
def test_an_interrupted_vit_continues_to_the_same_weights(tmp_path, pictures, run_python):
    """Transformers saves ViT under older names, which its Trainer does not convert when it resumes."""
    flags = {"do_train": True, "use_cpu": True, "disable_tqdm": True, "optim": "critmom", "learning_rate": 0.05}
    flags |= {"max_steps": 6, "save_steps": 3, "per_device_train_batch_size": 12}  # three steps an epoch
    folders = {"train_dir": pictures / "train", "validation_dir": pictures / "validation"}
    model = {"model_type": "vit", "config_overrides": SMALL_VIT}
    for name in ("whole", "interrupted"):
        if name == "interrupted":
            shutil.copytree(tmp_path / "whole/checkpoint-3", tmp_path / "interrupted/checkpoint-3")
        finished = run_python(*RUN, IMAGES, *flags_as_args({**flags, **folders, **model}, output_dir=name))
        assert finished.returncode == 0, finished.stderr
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "interrupted")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("script", "changes", "sentence"),
    [
        (CLM, {"train_file": "nowhere.txt"}, "nowhere.txt"),
        (CLM, {"train_file": "corpus.doc"}, r"--train_file .* \.txt, \.json or \.csv"),
        (CLM, {"config_overrides": "n_layers=1"}, "gpt2 has no setting 'n_layers'"),
        (CLM, {"config_overrides": "n_embd=wide"}, "n_embd"),
        (CLM, {"model_type": "gpt7"}, "no --model_type 'gpt7'"),
        (CLM, {"block_size": 33}, "blocks of 2 to 32 tokens"),
        (CLM, {"resume_from_checkpoint": "checkpoint-9"}, "no folder checkpoint-9"),
        (CLM, {"model_name_or_path": "here"}, "--config_overrides needs --model_type"),
        (IMAGES, {"model_type": "vit"}, "--dataset_name, or --train_dir"),
        (IMAGES, {"model_type": "vit", "train_dir": "nowhere"}, "no folder nowhere"),
    ],
)
def test_invalid_input_is_one_sentence_through_run(script, changes, sentence, tmp_path, monkeypatch, capsys):
    flags = {**TRAIN_LM, **changes} if script == CLM else changes
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        main(["run", script, *flags_as_args(flags, output_dir="out")])
    assert "\n" not in ended.value.code
    assert re.match(rf"{Path(script).name}: error: .*{sentence}", ended.value.code), ended.value.code


def test_overrides_are_parsed_as_json_or_strings():
    parse = runpy.run_path(CLM, run_name="script")["parse_overrides"]
    text = "n_layer=2,resid_pdrop=1e-3,scale_attn_weights=false,activation_function=relu,architectures=[1,2]"
    assert parse(text, "gpt2") == {
        "n_layer": 2,
        "resid_pdrop": 0.001,
        "scale_attn_weights": False,
        "activation_function": "relu",
        "architectures": [1, 2],
    }
    assert parse(None, "gpt2") == {}


@pytest.mark.parametrize("script", [CLM, IMAGES], ids=lambda script: Path(script).stem)
def test_the_inline_metadata_names_what_a_script_imports(script):
    """Inline metadata (PEP 723) for uv and cloud jobs, with the versions that this package needs."""
    text = Path(script).read_text(encoding="utf-8")
    (block,) = re.findall(r"(?m)^# /// script$\s((?:^#(?:| .*)$\s)+)^# ///$", text)
    metadata = tomllib.loads("".join(line[2:] for line in block.splitlines(keepends=True)))
    project = tomllib.loads((SCRIPTS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["requires-python"] == project["requires-python"]
    assert set(metadata["dependencies"]) <= set(project["dependencies"])
    modules = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports(text)}
    imported = {str(module).partition(".")[0] for module in modules} - sys.stdlib_module_names
    named = {re.split("[<>=]", dependency)[0] for dependency in metadata["dependencies"]}
    assert imported <= named
    assert named - imported <= {"accelerate", "torch", "pillow"}  # what the Trainer and the decoding of images need


def imports(text):
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
