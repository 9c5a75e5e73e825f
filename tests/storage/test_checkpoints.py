"""Claims about checkpoints: complete ones are found, others are skipped with a sentence, and nothing is removed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.tiny_models import tiny_data, tiny_model
from transformers import TrainingArguments

from hf_critmom import CritMomTrainer
from hf_critmom.storage.checkpoint_folders import list_checkpoints, remove_checkpoints, set_aside
from hf_critmom.storage.checkpoints import (
    CheckpointError,
    check_checkpoint,
    last_complete_checkpoint,
)

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def trainer_in(folder, seed=0, **fields):
    args = TrainingArguments(
        **{
            **{"output_dir": str(folder), "use_cpu": True, "optim": "critmom", "learning_rate": 0.02, "max_steps": 4},
            **{"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 1, "report_to": "none"},
            **{"disable_tqdm": True, "dataloader_pin_memory": False, "eval_strategy": "no", **fields},
        }
    )
    return CritMomTrainer(tiny_model("ViT", seed), args, train_dataset=tiny_data("ViT"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The output folder of a run with four checkpoints, one after each step."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    trainer_in(folder).train()
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of that folder without its last two checkpoints."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for step in (3, 4):
        shutil.rmtree(folder / f"checkpoint-{step}")
    return folder


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def save(content):
    return lambda file: torch.save(content, file)


class Explosive:
    """An object whose pickle executes code when it is loaded."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


DAMAGE = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "truncated": truncate,
    "{}": lambda file: file.write_text("{}"),
    "not UTF-8": lambda file: file.write_bytes(b'{"\xff\xfe": 1}'),
    "null": lambda file: file.write_text("null"),
    "deep": lambda file: file.write_text("[" * 100_000),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a pickle that executes": lambda file: torch.save({"x": Explosive(file.with_name("executed"))}, file),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(run, name, damage):
    damage(run / "checkpoint-2" / name)
    before = sorted(str(path) for path in run.rglob("*"))
    skipped = []
    found = last_complete_checkpoint(run, skip=lambda checkpoint, sentence: skipped.append((checkpoint, sentence)))
    assert found == str(run / "checkpoint-1")
    ((checkpoint, sentence),) = skipped
    assert checkpoint == run / "checkpoint-2" and sentence.endswith(".") and "\n" not in sentence
    assert str(checkpoint) in sentence
    assert "holds no weights" in sentence if name == FILES[0] and damage is Path.unlink else True
    assert sorted(str(path) for path in run.rglob("*")) == before  # nothing removed, nothing executed


WRONG_CONTENT = {
    "state of another step": ("trainer_state.json", lambda file: shutil.copy(file.parents[1] / "later.json", file)),
    "state without a log": ("trainer_state.json", lambda file: file.write_text('{"global_step": 2}')),
    "state with strange entries": (
        "trainer_state.json",
        lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "shell": "rm"})),
    ),
    "optimizer without groups": ("optimizer.pt", save({"state": {}, "param_groups": []})),
    "optimizer of numbers": ("optimizer.pt", save({"state": {}, "param_groups": [1, 2]})),
    "optimizer that is a list": ("optimizer.pt", save([1, 2])),
    "schedule of nothing": ("scheduler.pt", save({})),
    "random numbers of numpy missing": ("rng_state.pth", save({"python": 1, "cpu": 2})),
    "weights of nothing": ("model.safetensors", lambda file: file.write_bytes(b"\x02\0\0\0\0\0\0\0{}")),
}


@pytest.mark.parametrize(("name", "damage"), WRONG_CONTENT.values(), ids=WRONG_CONTENT)
def test_readable_nonsense_is_no_checkpoint(run, name, damage):
    state = json.loads((run / "checkpoint-2" / "trainer_state.json").read_text())
    (run / "later.json").write_text(json.dumps({**state, "global_step": 3}))
    damage(run / "checkpoint-2" / name)
    assert last_complete_checkpoint(run, skip=lambda checkpoint, sentence: None) == str(run / "checkpoint-1")


def test_checkpoints_are_ordered_by_step_and_other_folders_are_ignored(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "nothing") is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best", "checkpoint-11-old", "incomplete-checkpoint-12"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-13").write_text("a file")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


def test_every_process_needs_its_random_state(run):
    checkpoint = run / "checkpoint-2"
    check_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="written by 1 process, and 2 are training now"):
        check_checkpoint(checkpoint, world_size=2)
    for rank in range(2):
        shutil.copy(checkpoint / "rng_state.pth", checkpoint / f"rng_state_{rank}.pth")
    (checkpoint / "rng_state.pth").unlink()
    check_checkpoint(checkpoint, world_size=2)
    check_checkpoint(checkpoint, world_size=None)
    with pytest.raises(CheckpointError, match="written by 2 processes, and 1 is training now"):
        check_checkpoint(checkpoint)
    truncate(checkpoint / "rng_state_1.pth")
    with pytest.raises(CheckpointError, match=r"rng_state_1\.pth cannot be read"):
        check_checkpoint(checkpoint, world_size=2)


def test_a_run_with_scaled_gradients_needs_the_scaler(run):
    checkpoint = run / "checkpoint-2"
    with pytest.raises(CheckpointError, match=r"lacks scaler\.pt"):
        check_checkpoint(checkpoint, scaler=True)
    torch.save({"scale": 2.0**16}, checkpoint / "scaler.pt")
    check_checkpoint(checkpoint, scaler=True)


def test_missing_shards_are_named(run):
    checkpoint = run / "checkpoint-2"
    tiny_model("ViT").save_pretrained(checkpoint, max_shard_size="4KB")
    (checkpoint / "model.safetensors").unlink()
    check_checkpoint(checkpoint)
    (checkpoint / "model-00002-of-00003.safetensors").unlink(missing_ok=True)
    shard = next(checkpoint.glob("model-*.safetensors"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"names {shard.name}, which is not in its folder"):
        check_checkpoint(checkpoint)
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../checkpoint-1/model.safetensors"}}))
    with pytest.raises(CheckpointError, match="which is not in its folder"):
        check_checkpoint(checkpoint)


# ---------------------------------------------------------------------------------------------- runs that continue


def weights_in(folder):
    return (folder / "checkpoint-4" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("damage", ["optimizer.pt", "model.safetensors", "another model", "another shape"])
def test_a_run_continues_from_the_checkpoint_before_a_damaged_one(run, finished, damage, caplog):
    if damage == "another model":
        tiny_model("GPT2").save_pretrained(run / "checkpoint-2")
    elif damage == "another shape":
        state = torch.load(run / "checkpoint-2" / "optimizer.pt", weights_only=True)
        state["state"][0]["momentum_buffer"] = torch.zeros(3)
        torch.save(state, run / "checkpoint-2" / "optimizer.pt")
    else:
        truncate(run / "checkpoint-2" / damage)
    trainer = trainer_in(run, seed=1, save_total_limit=1)
    assert trainer.last_complete_checkpoint() == str(run / "checkpoint-1")
    assert (run / "checkpoint-2").is_dir()  # looking changes nothing
    trainer.train(resume_from_checkpoint=True)
    assert sum("is skipped" in record.getMessage() for record in caplog.records) == 2  # for each time of looking
    assert weights_in(run) == weights_in(finished)
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-4"]  # none but its own is counted
    assert not list(run.glob("incomplete-*"))  # of no use once a better one was there


def test_without_a_complete_checkpoint_a_run_starts_from_the_beginning_and_says_so(run, finished, caplog):
    for step in (1, 2):
        truncate(run / f"checkpoint-{step}" / "scheduler.pt")
    trainer = trainer_in(run)
    checkpoint = trainer.last_complete_checkpoint()
    assert checkpoint is None
    assert f"{run} holds no complete checkpoint: the run starts from the beginning" in caplog.text
    trainer.train(resume_from_checkpoint=checkpoint)
    assert weights_in(run) == weights_in(finished)
    assert [path.name for path in list_checkpoints(run)] == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]


def test_a_checkpoint_given_by_name_must_be_complete(run, finished, tmp_path, caplog):
    trainer = trainer_in(tmp_path / "other")
    (run / "checkpoint-2" / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint-2 lacks optimizer\.pt"):
        trainer.train(resume_from_checkpoint=str(run / "checkpoint-2"))
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*checkpoint-9"):
        trainer.train(resume_from_checkpoint=str(run / "checkpoint-9"))
    with pytest.raises(CheckpointError, match="other holds no complete checkpoint to continue from"):
        trainer.train(resume_from_checkpoint=True)
    (run / "checkpoint-1" / "rng_state.pth").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint-1 lacks rng_state\.pth"):
        check_checkpoint(run / "checkpoint-1")
    trainer.train(resume_from_checkpoint=str(run / "checkpoint-1"))
    assert "The run is not continued exactly" in caplog.text
    assert "checkpoint-1 lacks rng_state.pth" in caplog.text


def test_another_number_of_processes_resumes_with_a_warning_if_the_caller_allows_it(run, caplog):
    for checkpoint in list_checkpoints(run):
        for rank in range(2):
            shutil.copy(checkpoint / "rng_state.pth", checkpoint / f"rng_state_{rank}.pth")
        (checkpoint / "rng_state.pth").unlink()
    trainer = trainer_in(run)
    assert trainer.last_complete_checkpoint() is None
    trainer.train(resume_from_checkpoint=True)
    assert "written by 2 processes, and 1 is training now" in caplog.text
    assert "The run is not continued exactly" in caplog.text
    assert trainer.state.global_step == 4 and not list(run.glob("incomplete-*"))


def test_checkpoints_without_optimizer_state_are_resumed_with_a_warning_if_saved_that_way(tmp_path, caplog):
    trainer_in(tmp_path / "run", save_only_model=True).train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    with pytest.raises(CheckpointError, match=r"lacks optimizer\.pt"):
        trainer_in(tmp_path / "other").train(resume_from_checkpoint=str(checkpoint))
    trainer_in(tmp_path / "other", save_only_model=True).train(resume_from_checkpoint=str(checkpoint))
    assert f"if {checkpoint} lacks optimizer, schedule or random states, they start from" in caplog.text


def test_an_earlier_checkpoint_that_was_set_aside_is_replaced(tmp_path):
    for content in ("first", "second"):
        (tmp_path / "checkpoint-3").mkdir()
        (tmp_path / "checkpoint-3" / "file").write_text(content)
        set_aside([tmp_path / "checkpoint-3"])
    assert [path.name for path in tmp_path.iterdir()] == ["incomplete-checkpoint-3"]
    assert (tmp_path / "incomplete-checkpoint-3" / "file").read_text() == "second"
    remove_checkpoints(tmp_path)
    assert not list(tmp_path.iterdir())
