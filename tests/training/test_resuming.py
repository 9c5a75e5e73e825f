"""Claims about continuing with another optimizer or other options: it is said, and the card tells what trained."""

import logging

import pytest
import torch
from helpers.tiny_models import tiny_data, tiny_model
from transformers import Trainer, TrainingArguments

from hf_critmom import IKFAD, CritMomAdamW, CritMomSGD, CritMomTrainer, critical_momentum
from hf_critmom.optim import CritMomMatched
from hf_critmom.optim.qhm import CritMomQHM
from hf_critmom.optim.resuming import OtherOptimizerError, guard_resuming, optimizer_name
from hf_critmom.storage.checkpoints import CheckpointError
from hf_critmom.training.watching import watched_trainers

STEPS = 4
SGD = {"optim": "sgd", "optim_args": "momentum=0.9"}
ADAMW = {"optim": "adamw_torch"}
SETTINGS = {
    "critmom": {"optim": "critmom"},
    "critmom_adamw": {"optim": "critmom_adamw"},
    "ikfad": {"optim": "ikfad"},
    "sgd": SGD,
    "adamw": ADAMW,
    "adafactor": {"optim": "adafactor"},
    "critmom_matched": {"optim": "critmom_matched"},
    "critmom_compensated": {"optim": "critmom_compensated"},
    "critmom_qhm": {"optim": "critmom_qhm", "optim_args": "curvature=auto"},
    "schedule_free": {"optim": "schedule_free_adamw"},
}
CLASSES = {
    "critmom": "CritMomSGD", "critmom_adamw": "CritMomAdamW", "ikfad": "IKFAD", "sgd": "SGD", "adamw": "AdamW",
    "adafactor": "Adafactor", "critmom_matched": "CritMomMatched", "critmom_compensated": "CritMomCompensated",
    "critmom_qhm": "CritMomQHM",
}  # fmt: skip


def trainer_in(folder, trainer_cls=CritMomTrainer, **fields):
    args = TrainingArguments(
        **{
            **{"output_dir": str(folder), "use_cpu": True, "learning_rate": 0.02, "max_steps": STEPS},
            **{"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2, "report_to": "none"},
            **{"disable_tqdm": True, "dataloader_pin_memory": False, "logging_steps": 1},
            **fields,
        }
    )
    return trainer_cls(tiny_model("Llama"), args, train_dataset=tiny_data("Llama"))


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory):
    """Makes a checkpoint with one of the settings, once: ``checkpoint_of("critmom")``."""
    made = {}

    def make(name, trainer_cls=CritMomTrainer):
        if (name, trainer_cls) not in made:
            folder = tmp_path_factory.mktemp(name)
            trainer_in(folder, trainer_cls, **SETTINGS[name], max_steps=2).train()
            made[name, trainer_cls] = str(folder / "checkpoint-2")
        return made[name, trainer_cls]

    return make


def torch_optimizer(trainer):
    return getattr(trainer.optimizer, "optimizer", trainer.optimizer)


def sentences(caplog, beginning="The checkpoint was trained"):
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(beginning)]


@pytest.mark.parametrize("trainer_cls", [CritMomTrainer, Trainer])
@pytest.mark.parametrize("before", CLASSES)
def test_an_optimizer_is_known_by_its_state(checkpoint_of, before, trainer_cls):
    """By its own word where our Trainer wrote the checkpoint, by its options where Transformers' did."""
    state = torch.load(f"{checkpoint_of(before, trainer_cls)}/optimizer.pt", weights_only=True)
    expected = CLASSES[before] if trainer_cls is CritMomTrainer or before != "adafactor" else None
    assert optimizer_name(state) == expected


@pytest.mark.parametrize("trainer_cls", [CritMomTrainer, Trainer])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("critmom", "critmom_adamw"), ("critmom_adamw", "critmom"), ("critmom", "ikfad"), ("ikfad", "critmom"),
        ("adamw", "critmom"), ("critmom", "adamw"), ("sgd", "critmom_adamw"), ("ikfad", "adamw"),
        ("adafactor", "critmom"), ("critmom", "adafactor"),
    ],
)  # fmt: skip
def test_another_optimizer_than_the_checkpoints_is_a_sentence_that_names_both(
    checkpoint_of, before, after, trainer_cls, tmp_path
):
    trainer = trainer_in(tmp_path, **SETTINGS[after])
    with pytest.raises(OtherOptimizerError) as raised:
        trainer.train(resume_from_checkpoint=checkpoint_of(before, trainer_cls))
    theirs = "an unknown optimizer" if trainer_cls is Trainer and before == "adafactor" else CLASSES[before]
    assert f"the state of {theirs}, and this run trains with {CLASSES[after]}" in str(raised.value)


@pytest.mark.parametrize(("before", "after"), [("critmom", "sgd"), ("critmom_adamw", "adamw")])
def test_going_back_to_torchs_optimizers_inherits_no_damped_momentum_and_is_said(
    checkpoint_of, before, after, tmp_path, caplog
):
    trainer = trainer_in(tmp_path, **SETTINGS[after])
    trainer.train(resume_from_checkpoint=checkpoint_of(before))
    (sentence,) = sentences(caplog)
    assert f"with {CLASSES[before]}, and {CLASSES[after]} continues it with options of its own" in sentence
    for group in torch_optimizer(trainer).param_groups:
        assert group["momentum"] == 0.9 if after == "sgd" else group["betas"] == (0.9, 0.999)
        assert not {"rule", "hold", "floor", "curvature"} & group.keys()


def test_a_plain_trainer_under_the_launcher_inherits_no_damped_momentum(checkpoint_of, tmp_path, caplog):
    with watched_trainers(log_damping=False):
        trainer = trainer_in(tmp_path, Trainer, **SGD)
        trainer.train(resume_from_checkpoint=checkpoint_of("critmom"))
    (sentence,) = sentences(caplog)
    assert "with CritMomSGD, and SGD continues it with options of its own" in sentence
    assert {group["momentum"] for group in torch_optimizer(trainer).param_groups} == {0.9}
    with watched_trainers(log_damping=False), pytest.raises(OtherOptimizerError, match=r"IKFAD.*trains with SGD"):
        trainer_in(tmp_path / "other", Trainer, **SGD).train(resume_from_checkpoint=checkpoint_of("ikfad"))


@pytest.mark.parametrize(("before", "after"), [("sgd", "critmom"), ("adamw", "critmom_adamw")])
def test_going_over_to_ours_is_said_and_damped_from_the_first_step(checkpoint_of, before, after, tmp_path, caplog):
    trainer = trainer_in(tmp_path, **SETTINGS[after], lr_scheduler_type="constant")
    trainer.train(resume_from_checkpoint=checkpoint_of(before))
    assert len(sentences(caplog)) == 1
    record = next(record for record in trainer.state.log_history if record.get("step") == 3)
    assert record["momentum"] == critical_momentum(record["learning_rate"])


@pytest.mark.parametrize(
    ("name", "other", "said", "card"),
    [
        ("critmom", {"optim_args": "rule=exact"}, ["rule linear, not exact"], "(rule=linear"),
        ("critmom", {"optim": "critmom_hybrid"}, ["hold None, not 0.9"], "CritMomSGD(rule=linear, curvature=1.0)"),
        ("critmom", {"learning_rate": 0.1, "weight_decay": 0.1}, ["learning_rate 0.02, not 0.1", "weight_decay"], ""),
        ("sgd", {"optim_args": "momentum=0.5"}, ["momentum 0.9, not 0.5"], "SGD(momentum=0.9"),
        ("critmom_adamw", {"adam_beta2": 0.9}, ["beta2 0.999, not 0.9"], "beta2=0.999"),
    ],
)
def test_other_options_than_the_checkpoints_are_one_warning_and_the_card_tells_what_trained(
    checkpoint_of, name, other, said, card, tmp_path, caplog
):
    trainer = trainer_in(tmp_path, **{**SETTINGS[name], **other})
    trainer.train(resume_from_checkpoint=checkpoint_of(name))
    (sentence,) = sentences(caplog)
    assert all(words in sentence for words in said)
    trainer.create_model_card(model_name="tiny")
    assert card in (tmp_path / "README.md").read_text()


def test_the_same_optimizer_with_the_same_options_continues_without_a_word(checkpoint_of, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        for name in SETTINGS:
            trainer = trainer_in(tmp_path / name, **SETTINGS[name])
            trainer.train(resume_from_checkpoint=checkpoint_of(name))
            assert trainer.state.global_step == STEPS
    assert not sentences(caplog)


@pytest.mark.parametrize("name", ["adafactor", "schedule_free"])
def test_a_checkpoint_of_the_plain_trainer_continues_whoever_wrote_the_optimizer(checkpoint_of, name, tmp_path, caplog):
    trainer = trainer_in(tmp_path, **SETTINGS[name])
    trainer.train(resume_from_checkpoint=checkpoint_of(name, Trainer))
    assert trainer.state.global_step == STEPS
    assert not sentences(caplog)


@pytest.mark.parametrize("cls", [CritMomSGD, CritMomAdamW, CritMomMatched, CritMomQHM, IKFAD])
def test_an_optimizer_derived_from_one_of_ours_loads_its_own_state(cls, caplog):
    derived = type("Derived", (cls,), {})
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    first, second = derived([parameter], lr=0.1), derived([parameter], lr=0.1)
    first.step()
    second.load_state_dict(first.state_dict())
    assert str(second.state_dict()) == str(first.state_dict())
    assert not sentences(caplog)


def test_amsgrad_takes_over_a_state_without_its_maximum():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    before, after = torch.optim.AdamW([parameter], lr=0.1), CritMomAdamW([parameter], lr=0.1, amsgrad=True)
    before.step()
    after.load_state_dict(before.state_dict())
    after.step()
    state = after.state[parameter]
    assert torch.equal(state["max_exp_avg_sq"], state["exp_avg_sq"])


def test_other_parameters_are_a_sentence(checkpoint_of, tmp_path):
    trainer = trainer_in(tmp_path, **SETTINGS["critmom"])
    for parameter in trainer.model.model.layers[0].parameters():
        parameter.requires_grad_(False)
    with pytest.raises(CheckpointError, match="other parameters are trained"):
        trainer.train(resume_from_checkpoint=checkpoint_of("critmom"))


def test_groups_that_differ_are_all_in_the_card(tmp_path):
    model = tiny_model("Llama")
    first, *others = model.parameters()
    optimizer = CritMomSGD([{"params": [first], "hold": 0.5}, {"params": others}], lr=0.02, hold=0.9)
    args = TrainingArguments(str(tmp_path), use_cpu=True, max_steps=1, report_to="none", disable_tqdm=True)
    trainer = CritMomTrainer(model, args, train_dataset=tiny_data("Llama"), optimizers=(optimizer, None))
    trainer.train()
    trainer.create_model_card()
    assert "hold=0.5 and 0.9" in (tmp_path / "README.md").read_text()


def test_counters_that_an_optimizer_keeps_in_its_groups_are_no_options_of_the_card(tmp_path):
    trainer = trainer_in(tmp_path, **SETTINGS["schedule_free"])
    trainer.train()
    trainer.create_model_card()
    (line,) = [line for line in (tmp_path / "README.md").read_text().splitlines() if "AdamWScheduleFree" in line]
    assert "betas=(0.9, 0.999)" in line
    assert not [name for name in ("k=", "train_mode", "weight_sum", "lr_max", "scheduled_lr") if name in line]


def test_a_guarded_optimizer_saves_a_state_that_torch_loads():
    parameters = [torch.nn.Parameter(torch.ones(2))]
    optimizer = CritMomSGD(parameters, lr=0.1)
    guard_resuming(optimizer)
    guard_resuming(optimizer)
    parameters[0].grad = torch.ones(2)
    optimizer.step()
    state = optimizer.state_dict()
    plain = torch.optim.SGD(parameters, lr=0.1)
    plain.load_state_dict(state)
    assert torch.equal(plain.state[parameters[0]]["momentum_buffer"], torch.ones(2))
