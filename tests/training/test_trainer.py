"""Claims about training through the real Trainer: a tiny GPT-2 on the CPU, a few steps at a time."""

import copy
import logging
import math
import types

import pytest
import torch
from huggingface_hub import ModelCard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from hf_critmom import (
    CritMomSGD,
    CritMomTrainer,
    DampingCallback,
    critical_momentum,
    critmom_optimizer,
    damping_ratio,
    damping_regime,
)
from hf_critmom.damping import critical_nu
from hf_critmom.training.callbacks import REGIME_CODES

STEPS = 8
DAMPING_KEYS = ("momentum", "damping_ratio", "damping_regime")


class UsedRecorder(TrainerCallback):
    """Writes down, behind each optimizer step, what the step was made with, straight from the param groups."""

    def __init__(self, name="momentum"):
        self.name, self.used = name, []

    def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        groups = optimizer.param_groups
        self.used.append([(group["lr"], group.get(self.name)) for group in groups])


@pytest.fixture
def make_trainer(tmp_path):
    """Makes a Trainer: ``make_trainer(CritMomTrainer, learning_rate=0.1)``.

    The same to the bit each time, if it trains before the next is made: making one seeds the dropout.
    """

    def make(
        trainer_cls=Trainer, folder="run", *, model=None, callbacks=(), optimizers=(None, None), pair=None, **fields
    ):
        args = TrainingArguments(
            **{
                "output_dir": str(tmp_path / folder),
                "use_cpu": True,
                "max_steps": STEPS,
                "per_device_train_batch_size": 2,
                "learning_rate": 0.09,
                "weight_decay": 0.01,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 2,
                "logging_steps": 1,
                "save_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
                **fields,
            }
        )
        return trainer_cls(
            model or tiny_model(),
            args,
            train_dataset=DATA,
            eval_dataset=DATA[:2],
            callbacks=list(callbacks),
            optimizers=optimizers,
            optimizer_cls_and_kwargs=pair(args) if pair else None,
        )

    return make


def tiny_model():
    set_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2))


def tiny_data():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 16, (12, 8), generator=generator)
    return [{"input_ids": row, "labels": row} for row in rows]


DATA = tiny_data()


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def torch_optimizer(trainer):
    return getattr(trainer.optimizer, "optimizer", trainer.optimizer)


def training_records(trainer):
    return [record for record in trainer.state.log_history if "loss" in record]


def schedule(peak, warmup=2, steps=STEPS):
    """Learning rates of linear warmup from 0 and cosine decay towards 0."""
    warm = [peak * step / warmup for step in range(warmup)]
    decay = [step / (steps - warmup) for step in range(steps - warmup)]
    return warm + [peak * 0.5 * (1.0 + math.cos(math.pi * part)) for part in decay]


def test_a_plain_trainer_takes_every_step_with_the_momentum_of_its_learning_rate(make_trainer):
    recorder = UsedRecorder()
    trainer = make_trainer(optim="critmom", callbacks=[recorder])
    trainer.train()
    assert type(torch_optimizer(trainer)) is CritMomSGD
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.01, 0.0]
    expected = schedule(0.09)
    assert expected[0] == 0.0
    for lr, groups in zip(expected, recorder.used, strict=True):
        for used_lr, momentum in groups:
            assert used_lr == pytest.approx(lr, abs=1e-12)
            assert momentum == critical_momentum(used_lr)


def test_the_first_step_of_a_warmup_moves_nothing(make_trainer):
    trainer = make_trainer(optim="critmom", max_steps=1)
    before = weights(trainer)
    trainer.train()
    assert same(weights(trainer), before)


def test_at_a_constant_learning_rate_the_run_is_that_of_torchs_sgd(make_trainer):
    constant = {"lr_scheduler_type": "constant", "warmup_steps": 0, "learning_rate": 0.04}
    ours = make_trainer(optim="critmom", **constant)
    ours.train()
    theirs = make_trainer(optim="sgd", optim_args=f"momentum={critical_momentum(0.04)!r}", **constant)
    theirs.train()
    assert torch_optimizer(theirs).param_groups[0]["momentum"] == critical_momentum(0.04)
    assert same(weights(ours), weights(theirs))


@pytest.mark.parametrize(("name", "hold"), [("critmom", 1.0), ("critmom_hybrid", 0.9)])
@pytest.mark.parametrize("logging_steps", [1, 3])
def test_logged_momentum_belongs_to_the_logged_learning_rate(make_trainer, name, hold, logging_steps):
    recorder = UsedRecorder()
    trainer = make_trainer(CritMomTrainer, optim=name, logging_steps=logging_steps, callbacks=[recorder])
    trainer.train()
    records = training_records(trainer)
    assert [record["step"] for record in records] == list(range(logging_steps, STEPS + 1, logging_steps))
    for record in records:
        lr, momentum = recorder.used[record["step"] - 1][0]
        assert record["learning_rate"] == lr
        assert record["momentum"] == momentum == min(critical_momentum(lr), hold)
        if lr > 0.0:
            assert record["damping_ratio"] == damping_ratio(momentum, lr)
        else:
            assert "damping_ratio" not in record  # infinite
        assert record["damping_regime"] == REGIME_CODES[damping_regime(momentum, lr)]
        for key in DAMPING_KEYS:
            assert type(record.get(key, 0.0)) is float
        assert not [key for key in record if "group" in key]


def test_quasi_hyperbolic_momentum_is_logged_with_its_weight_and_what_it_damps(make_trainer):
    trainer = make_trainer(
        CritMomTrainer, optim="critmom_qhm", optim_args="curvature=40", learning_rate=0.02, warmup_steps=0
    )
    trainer.train()
    for record in (record for record in trainer.state.log_history if "loss" in record):
        lr, nu = record["learning_rate"], record["nu"]
        assert record["momentum"] == 0.9
        assert nu == critical_nu(0.9, lr, curvature=40.0)
        assert record["damping_ratio"] == damping_ratio(0.9, lr, curvature=40.0, nu=nu)
        assert record["damping_regime"] == (REGIME_CODES["critical"] if nu > 0.0 else REGIME_CODES["overdamped"])


def test_a_constant_baseline_is_seen_to_change_its_regime(make_trainer):
    def sgd(args):
        return torch.optim.SGD, {"lr": args.learning_rate, "momentum": 0.9}

    trainer = make_trainer(CritMomTrainer, pair=sgd, learning_rate=0.02)
    trainer.train()
    assert type(torch_optimizer(trainer)) is torch.optim.SGD
    for record in training_records(trainer):
        lr = record["learning_rate"]
        assert record["momentum"] == 0.9
        assert record["damping_regime"] == (-1.0 if lr > 0.0025 else 1.0)
    assert {record["damping_regime"] for record in training_records(trainer)} == {-1.0, 1.0}


def test_nesterovs_momentum_is_damped_as_quasi_hyperbolic_momentum_of_its_weight(make_trainer):
    def nesterov(args):
        return torch.optim.SGD, {"lr": args.learning_rate, "momentum": 0.9, "nesterov": True}

    trainer = make_trainer(CritMomTrainer, pair=nesterov, learning_rate=0.02, warmup_steps=0)
    trainer.train()
    for record in training_records(trainer):
        assert record["nu"] == record["momentum"] == 0.9
        assert record["damping_ratio"] == damping_ratio(0.9, record["learning_rate"], nu=0.9)


def test_an_infinite_ratio_is_left_out_of_the_log(make_trainer):
    trainer = make_trainer(
        CritMomTrainer, optim="critmom", optim_args="nesterov=true", learning_rate=0.4, warmup_steps=0
    )
    trainer.train()
    clamped = [record for record in training_records(trainer) if record["momentum"] == 0.0]
    assert clamped
    assert all("damping_ratio" not in record for record in clamped)
    assert all(math.isfinite(value) for record in trainer.state.log_history for value in record.values())


@pytest.mark.parametrize("trained", ["bias", "weight"])
def test_a_group_without_parameters_is_not_logged(make_trainer, trained):
    """As of BitFit and of adapters without biases: of the Trainer's two groups, one is empty."""
    model, recorder = tiny_model(), UsedRecorder("effective_lr")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(f"attn.{trained}"))
    trainer = make_trainer(CritMomTrainer, optim="critmom_matched", model=model, callbacks=[recorder])
    trainer.train()
    (index,) = [index for index, group in enumerate(trainer.optimizer.param_groups) if group["params"]]
    records = training_records(trainer)
    assert [record["effective_lr"] for record in records] == [used[index][1] for used in recorder.used]
    assert not any("_group_" in name for record in records for name in record)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (torch.optim.AdamW, {"betas": (0.8, 0.99)}),
        (torch.optim.RMSprop, {"momentum": 0.8}),
        (torch.optim.NAdam, {"betas": (0.8, 0.99)}),
    ],
)
def test_optimizers_that_scale_each_parameter_have_a_momentum_and_no_damping_of_the_loss(make_trainer, cls, options):
    trainer = make_trainer(CritMomTrainer, pair=lambda args: (cls, {"lr": args.learning_rate, **options}))
    trainer.train()
    for record in training_records(trainer):
        assert record["momentum"] == 0.8
        assert not {"damping_ratio", "damping_regime"} & record.keys()


def test_gradient_accumulation_makes_no_difference_to_what_is_logged(make_trainer):
    recorder = UsedRecorder()
    trainer = make_trainer(CritMomTrainer, optim="critmom", gradient_accumulation_steps=3, callbacks=[recorder])
    trainer.train()
    assert [record["momentum"] for record in training_records(trainer)] == [used[0][1] for used in recorder.used]


def test_evaluations_and_summaries_carry_no_momentum(make_trainer):
    trainer = make_trainer(CritMomTrainer, optim="critmom", eval_strategy="steps", eval_steps=4)
    trainer.train()
    others = [record for record in trainer.state.log_history if "loss" not in record]
    assert any("eval_loss" in record for record in others) and any("train_runtime" in record for record in others)
    for record in others:
        assert not set(DAMPING_KEYS) & record.keys()


def scalars(folder):
    """What the trackers got: tag -> [(step, value)]."""
    (events,) = folder.rglob("events.out.tfevents.*")
    reader = EventAccumulator(str(events)).Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def with_callback(make_trainer, trainer_cls=Trainer, **fields):
    trainer = make_trainer(trainer_cls, **fields)
    trainer.add_callback(DampingCallback(trainer))
    return trainer


@pytest.mark.parametrize("kind", ["plain Trainer with the callback", "CritMomTrainer"])
def test_the_damping_state_reaches_trackers(kind, make_trainer, tmp_path):
    fields = {"optim": "critmom", "report_to": "tensorboard"}
    if kind == "CritMomTrainer":
        trainer = make_trainer(CritMomTrainer, **fields)
    else:
        trainer = with_callback(make_trainer, **fields)
    trainer.train()
    tracked = scalars(tmp_path)
    steps = range(1, STEPS + 1)
    learning_rates = schedule(0.09)
    expected = [critical_momentum(lr) for lr in learning_rates]
    assert [step for step, _ in tracked["train/momentum"]] == list(steps)
    assert [value for _, value in tracked["train/momentum"]] == pytest.approx(expected, abs=1e-6)
    assert [value for _, value in tracked["train/damping_regime"]] == [0.0] * STEPS
    assert [step for step, _ in tracked["train/damping_ratio"]] == list(steps)[1:]  # at learning rate 0 it is infinite
    assert [value for _, value in tracked["train/damping_ratio"]] == pytest.approx([1.0] * (STEPS - 1))
    assert [value for _, value in tracked["train/learning_rate"]] == pytest.approx(learning_rates, abs=1e-6)
    assert len(tracked["train/loss"]) == STEPS


def test_a_callback_without_a_trainer_says_that_it_cannot_log(make_trainer, caplog):
    trainer = make_trainer(optim="critmom", max_steps=1, callbacks=[DampingCallback()])
    trainer.train()
    assert "add_callback(DampingCallback(trainer))" in caplog.text
    assert not [record for record in trainer.state.log_history if "momentum" in record]


def test_adding_the_callback_to_our_trainer_as_well_logs_nothing_twice(make_trainer):
    trainer = with_callback(make_trainer, CritMomTrainer, optim="critmom")
    trainer.train()
    assert len([record for record in trainer.state.log_history if "momentum" in record]) == STEPS


def test_a_skipped_step_is_not_taken_for_one_that_was_made():
    callback = DampingCallback()
    optimizer = types.SimpleNamespace(param_groups=[{"lr": 0.04, "momentum": 0.6}], step_was_skipped=False)
    callback.on_optimizer_step(None, None, None, optimizer=optimizer)
    made = callback.metrics()
    assert made["momentum"] == 0.6
    optimizer.param_groups[0]["momentum"] = 0.1
    optimizer.step_was_skipped = True
    callback.on_optimizer_step(None, None, None, optimizer=optimizer)
    assert callback.metrics() == made


def test_watching_does_not_change_the_run(make_trainer):
    plain = make_trainer(optim="critmom")
    plain.train()
    watched = with_callback(make_trainer, optim="critmom")
    watched.train()
    ours = make_trainer(CritMomTrainer, optim="critmom")
    ours.train()
    assert same(weights(plain), weights(watched))
    assert same(weights(plain), weights(ours))
    assert [record["loss"] for record in training_records(plain)] == [
        record["loss"] for record in training_records(ours)
    ]


@pytest.mark.parametrize("name", ["critmom", "critmom_hybrid"])
@pytest.mark.parametrize("trainer_cls", [Trainer, CritMomTrainer])
def test_a_run_resumed_in_the_middle_ends_the_same_to_the_bit(make_trainer, tmp_path, name, trainer_cls):
    fields = {"optim": name, "save_strategy": "steps", "save_steps": 3}
    straight = make_trainer(trainer_cls, **fields)
    straight.train()
    resumed = make_trainer(trainer_cls, "resumed", **fields)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert same(weights(resumed), weights(straight))
    velocities = [
        [state["momentum_buffer"] for state in torch_optimizer(trainer).state.values()]
        for trainer in (straight, resumed)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*velocities, strict=True))
    kept = (*DAMPING_KEYS, "loss", "learning_rate", "step")
    records = [
        [{key: record.get(key) for key in kept} for record in training_records(trainer)]
        for trainer in (straight, resumed)
    ]
    assert records[0] == records[1]


def test_a_run_that_was_interrupted_behind_its_last_step_takes_no_further_one(make_trainer, tmp_path):
    fields = {"optim": "critmom", "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    assert len(DATA) // 2 > 3  # it ends within an epoch
    straight = make_trainer(CritMomTrainer, **fields)
    straight.train()
    resumed = make_trainer(CritMomTrainer, "resumed", **fields)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert resumed.state.global_step == 3
    assert same(weights(resumed), weights(straight))


def two_groups(model, **second):
    params = list(model.parameters())
    return [{"params": params[:3]}, {"params": params[3:], **second}]


@pytest.mark.parametrize(
    ("second", "differs"),
    [({}, False), ({"weight_decay": 0.1}, False), ({"lr": 0.01}, True), ({"hold": 0.1}, True)],
    ids=str,
)
def test_a_group_that_differs_is_logged_beside_the_first(make_trainer, second, differs):
    model = tiny_model()
    optimizer = CritMomSGD(two_groups(model, **second), lr=0.09)
    trainer = make_trainer(CritMomTrainer, model=model, optimizers=(optimizer, None), warmup_steps=0)
    trainer.train()
    for record in training_records(trainer):
        assert record["momentum"] == critical_momentum(record["learning_rate"])
        groups = {key for key in record if key.endswith("_group_1")}
        assert groups == ({f"{key}_group_1" for key in DAMPING_KEYS} if differs else set())
        assert not [key for key in record if "_group_2" in key]
        if differs:
            share = second.get("lr", 0.09) / 0.09
            critical = critical_momentum(record["learning_rate"] * share)
            assert record["momentum_group_1"] == pytest.approx(min(critical, second.get("hold", 1.0)), abs=1e-12)
            assert type(record["momentum_group_1"]) is float


def test_an_adam_like_optimizers_first_beta_is_its_momentum(make_trainer):
    trainer = make_trainer(CritMomTrainer, pair=lambda args: (torch.optim.AdamW, {"lr": 1e-3, "betas": (0.8, 0.99)}))
    trainer.train()
    assert {record["momentum"] for record in training_records(trainer)} == {0.8}


def test_an_optimizer_without_momentum_says_so_once(make_trainer, caplog):
    transformers_logging.warning_once.cache_clear()
    trainer = make_trainer(CritMomTrainer, pair=lambda args: (torch.optim.Adagrad, {"lr": args.learning_rate}))
    with caplog.at_level(logging.WARNING):
        trainer.train()
    said = [record.getMessage() for record in caplog.records if "no momentum" in record.getMessage()]
    assert len(said) == 1 and "Adagrad" in said[0]
    assert not [record for record in trainer.state.log_history if set(DAMPING_KEYS) & record.keys()]


def test_left_at_the_default_our_trainer_uses_critmom_and_leaves_the_callers_arguments_alone(make_trainer, caplog):
    transformers_logging.warning_once.cache_clear()
    default = TrainingArguments.__dataclass_fields__["optim"].default
    trainer = make_trainer(CritMomTrainer, max_steps=2)
    assert trainer.args.optim == "critmom"
    assert "critmom" in caplog.text and str(default) in caplog.text
    args = TrainingArguments(output_dir=trainer.args.output_dir, use_cpu=True, max_steps=2, save_strategy="no")
    before = copy.deepcopy(args)
    trainer = CritMomTrainer(tiny_model(), args, train_dataset=DATA)
    trainer.train()
    assert type(torch_optimizer(trainer)) is CritMomSGD
    assert args == before and args.optim == default


@pytest.mark.parametrize("name", ["critmom_hybrid", "sgd", "adafactor"])
def test_an_optimizer_that_was_named_is_kept(make_trainer, name):
    trainer = make_trainer(CritMomTrainer, optim=name)
    assert trainer.args.optim == name
    assert type(trainer.create_optimizer()).__name__ == {"sgd": "SGD", "adafactor": "Adafactor"}.get(name, "CritMomSGD")


def test_an_optimizer_that_was_passed_is_kept(make_trainer):
    default = TrainingArguments.__dataclass_fields__["optim"].default
    by_pair = make_trainer(CritMomTrainer, pair=lambda args: critmom_optimizer(args, rule="exact"))
    assert by_pair.create_optimizer().param_groups[0]["rule"] == "exact"
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    by_instance = make_trainer(CritMomTrainer, optimizers=(optimizer, None))
    assert by_instance.create_optimizer() is optimizer
    assert by_pair.args.optim == by_instance.args.optim == default


CARDS = {
    "critmom by default": ({}, ["CritMomSGD", "rule=linear"], ["adam", "hold"]),
    "the hybrid by name": ({"optim": "critmom_hybrid"}, ["CritMomSGD", "rule=linear", "hold=0.9"], ["adam"]),
    "options by text": (
        {"optim": "critmom", "optim_args": "rule=exact,nesterov=true"},
        ["CritMomSGD", "rule=exact", "nesterov=True"],
        ["adam", "linear"],
    ),
    "ours by class": (
        {"pair": lambda args: critmom_optimizer(args, name="critmom_hybrid", rule="exponential")},
        ["CritMomSGD", "rule=exponential", "hold=0.9"],
        ["adam", "linear"],
    ),
    "torch's SGD by class": (
        {"pair": lambda args: (torch.optim.SGD, {"lr": args.learning_rate, "momentum": 0.9, "nesterov": True})},
        ["SGD(", "momentum=0.9", "nesterov=True"],
        ["adam", "CritMom", "rule"],
    ),
}


@pytest.mark.parametrize(("fields", "named", "absent"), CARDS.values(), ids=CARDS)
def test_the_automatic_card_names_the_optimizer_that_trained(make_trainer, tmp_path, fields, named, absent):
    trainer = make_trainer(CritMomTrainer, max_steps=2, **fields)
    trainer.train()
    trainer.create_model_card(model_name="tiny")
    card = (tmp_path / "run" / "README.md").read_text()
    lines = card.splitlines()
    (line,) = [line for line in lines if line.startswith("- optimizer: ")]
    for word in named:
        assert word in line
    for word in absent:
        assert word not in line
    # What stood beside it stands there still, and nothing of the line it replaces.
    place = lines.index(line)
    assert lines[place - 1].startswith("- ")
    assert lines[place + 1].startswith("- lr_scheduler_type: ")
    assert "- learning_rate: 0.09" in lines
    assert "No additional optimizer arguments" not in card


def test_the_automatic_card_has_the_tags_of_a_tracker(make_trainer, tmp_path):
    trainer = make_trainer(CritMomTrainer, max_steps=2, optim="critmom")
    trainer.train()
    trainer.model.model_tags = ["trackio", "trackio:https://huggingface.co/spaces/me/trackio"]  # as Trackio's callback
    for _ in range(2):
        trainer.create_model_card(model_name="tiny")
        tags = ModelCard.load(tmp_path / "run" / "README.md").data.tags
        assert tags.count("trackio") == 1 and {"generated_from_trainer", *trainer.model.model_tags} <= set(tags)


def test_the_automatic_card_survives_the_callback(make_trainer, tmp_path):
    trainer = with_callback(make_trainer, optim="critmom", eval_strategy="steps", eval_steps=4)
    trainer.train()
    trainer.create_model_card(model_name="tiny")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "### Training results" in card and "Training Loss" in card
