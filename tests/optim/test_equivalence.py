"""Claims about the whole family under the ways in which Transformers trains: the same method under each of them."""

import copy
import itertools
import math
import operator
import warnings

import pytest
import torch
from helpers.distributed_programs import Perceptron
from torch.optim import lr_scheduler
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    SchedulerType,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from hf_critmom import IKFAD, CritMomAdamW, CritMomQHM, CritMomSGD, critical_momentum
from hf_critmom.optim import OPTIMIZERS

pytestmark = pytest.mark.filterwarnings("ignore:.*momentum is clamped to 0", "ignore:.*scheduler cycles the momentum")

STEPS = 8
ROWS = 40  # an epoch of 5 steps of 8 rows
MOMENTUM_NAMES = [name for name in OPTIMIZERS if name != "ikfad"]
any_name = pytest.mark.parametrize("name", OPTIMIZERS)
any_momentum_name = pytest.mark.parametrize("name", MOMENTUM_NAMES)


def tiny_data():
    rows = torch.randint(0, 16, (ROWS, 6), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in rows]


DATA = tiny_data()


def tiny_model(dropout=0.0):
    set_seed(0)
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2, **dropouts))


def points():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS, 4, generator=generator, dtype=torch.float64)
    return [{"inputs": row, "labels": row.argmax() % 3} for row in inputs]


class Recorder(TrainerCallback):
    """Writes down gradients before, and learning rate, momentum and parameters of each step after it was made."""

    def __init__(self, gradients=False):
        self.used, self.gradients, self.parameters = [], [] if gradients else None, []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.gradients is not None:
            self.gradients.append([p.grad.clone() for p in model.parameters()])

    def on_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.used.append([(group["lr"], momentum_of(group)) for group in optimizer.param_groups])
        if self.gradients is not None:
            self.parameters.append(values_of(model))


def momentum_of(group):
    return group["betas"][0] if "betas" in group else group.get("momentum")


def expected_momentum(name, lr):
    if name in ("critmom_matched", "critmom_qhm"):  # what follows is the step, and the immediate weight
        return 0.9
    momentum = critical_momentum(float(lr))
    return min(momentum, 0.9) if name == "critmom_hybrid" else momentum


def assert_momentum_followed(name, used):
    for groups in used:
        for lr, momentum in groups:
            assert momentum == expected_momentum(name, lr)


def values_of(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_identical(ours, theirs):
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


@pytest.fixture
def make_trainer(tmp_path):
    """A Trainer that is the same to the bit each time, if it trains before the next is made."""

    def make(folder="run", *, model=None, data=DATA, callbacks=(), optimizers=(None, None), **fields):
        args = TrainingArguments(
            **{
                "output_dir": str(tmp_path / folder),
                "use_cpu": True,
                "max_steps": STEPS,
                "per_device_train_batch_size": 8,
                "learning_rate": 0.05,
                "weight_decay": 0.01,
                "logging_steps": 1,
                "save_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
                **fields,
            }
        )
        return Trainer(
            model or tiny_model(),
            args,
            train_dataset=data,
            eval_dataset=data[:8],
            callbacks=list(callbacks),
            optimizers=optimizers,
        )

    return make


# --- Schedules ------------------------------------------------------------------------------------------------------

PLATEAU = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"}
SCHEDULES = {
    "cosine_with_restarts": {"lr_scheduler_kwargs": {"num_cycles": 2}},
    "polynomial": {"lr_scheduler_kwargs": {"power": 2.0}},
    "cosine_with_min_lr": {"lr_scheduler_kwargs": {"min_lr": 0.001}},
    "cosine_warmup_with_min_lr": {"lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
    "warmup_stable_decay": {"lr_scheduler_kwargs": {"num_decay_steps": 3}},
    "reduce_lr_on_plateau": {"lr_scheduler_kwargs": {"patience": 0, "threshold": 10.0}, **PLATEAU},
    "greedy": {"lr_scheduler_kwargs": {"patience": 0, "threshold": 10.0, "min_lr": 1e-4}, **PLATEAU},
}
"""What a schedule needs beside its name, where it needs anything."""


@any_momentum_name
@pytest.mark.parametrize("schedule", [schedule.value for schedule in SchedulerType])
def test_every_schedule_of_transformers_is_followed_step_by_step(make_trainer, name, schedule):
    recorder = Recorder()
    trainer = make_trainer(
        optim=name, lr_scheduler_type=schedule, warmup_steps=3, callbacks=[recorder], **SCHEDULES.get(schedule, {})
    )
    trainer.train()
    assert len(recorder.used) == STEPS
    assert_momentum_followed(name, recorder.used)
    if schedule != "constant":
        assert len({groups[0][0] for groups in recorder.used}) > 1, "the schedule of this test schedules nothing"
    assert all(p.isfinite().all() for p in trainer.model.parameters())


CUSTOM_SCHEDULERS = {
    "LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, lambda step: (step % 3) / 3),
    "MultiStepLR": lambda opt: lr_scheduler.MultiStepLR(opt, [2, 5]),
    "CosineAnnealingWarmRestarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 3),
    "CyclicLR": lambda opt: lr_scheduler.CyclicLR(opt, 0.001, 0.4, step_size_up=2, cycle_momentum=False),
    "CyclicLR with momentum": lambda opt: lr_scheduler.CyclicLR(opt, 0.001, 0.4, step_size_up=2),
    "OneCycleLR with momentum": lambda opt: lr_scheduler.OneCycleLR(opt, 0.4, total_steps=STEPS + 1),
    "SequentialLR": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, 0.1, total_iters=3), lr_scheduler.ExponentialLR(opt, 0.5)], [3]
    ),
}


@pytest.mark.parametrize("cls", [CritMomSGD, CritMomAdamW])
@pytest.mark.parametrize("make_scheduler", CUSTOM_SCHEDULERS.values(), ids=CUSTOM_SCHEDULERS)
def test_a_scheduler_of_ones_own_is_followed_and_groups_keep_their_own_rates(make_trainer, cls, make_scheduler):
    model, recorder = tiny_model(), Recorder()
    params = list(model.parameters())
    optimizer = cls([{"params": params[:4]}, {"params": params[4:], "lr": 0.02}], lr=0.1)
    make_trainer(model=model, optimizers=(optimizer, make_scheduler(optimizer)), callbacks=[recorder]).train()
    assert_momentum_followed("critmom", recorder.used)
    assert len({groups[0][0] for groups in recorder.used}) > 1


@pytest.mark.parametrize("cls", [CritMomSGD, CritMomAdamW])
def test_the_momentum_that_one_cycle_cycles_is_overridden_and_that_is_said_once(cls):
    """Steps are those of the same learning rates without the cycling, which never reaches the update."""

    def train(cycle_momentum):
        p = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        optimizer = cls([p], lr=0.1)
        scheduler = lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=21, cycle_momentum=cycle_momentum)
        for _ in range(20):
            p.grad = 2.0 * p.detach()
            optimizer.step()
            assert momentum_of(optimizer.param_groups[0]) == critical_momentum(optimizer.param_groups[0]["lr"])
            scheduler.step()
        return p.detach()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        plain = train(cycle_momentum=False)
        assert not [w for w in caught if "cycles the momentum" in str(w.message)]
        cycled = train(cycle_momentum=True)
        (said,) = [str(w.message) for w in caught if "cycles the momentum" in str(w.message)]
    assert torch.equal(cycled, plain)
    assert "cycle_momentum=False" in said


def test_one_cycle_with_momentum_is_refused_for_ikfad_by_torch_itself():
    optimizer = IKFAD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(ValueError, match="momentum"):
        lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10, cycle_momentum=False)


@pytest.mark.parametrize(
    "make",
    [
        lambda params, lr: CritMomSGD(params, lr=lr, foreach=False),
        lambda params, lr: CritMomSGD(params, lr=lr, foreach=True),
        lambda params, lr: CritMomSGD(params, lr=lr, fused=True),
        lambda params, lr: CritMomAdamW(params, lr=lr, foreach=False),
        lambda params, lr: CritMomAdamW(params, lr=lr, fused=True),
        lambda params, lr: IKFAD(params, lr=lr),
        lambda params, lr: CritMomQHM(params, lr=lr, foreach=False),
        lambda params, lr: CritMomQHM(params, lr=lr),
    ],
    ids=["sgd", "sgd-foreach", "sgd-fused", "adamw", "adamw-fused", "ikfad", "qhm", "qhm-foreach"],
)
def test_a_learning_rate_in_a_tensor_steps_like_the_same_number(make):
    def train(lr):
        p = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        optimizer = make([p], lr)
        scheduler = lr_scheduler.LinearLR(optimizer, 1.0, 0.25, total_iters=6)
        for _ in range(8):
            p.grad = 2.0 * p.detach()
            optimizer.step()
            scheduler.step()
        return p.detach()

    torch.testing.assert_close(train(torch.tensor(0.125, dtype=torch.float64)), train(0.125), rtol=1e-14, atol=1e-14)


# --- Batches, precision, clipping, overflow -------------------------------------------------------------------------


@any_name
def test_eight_accumulated_batches_of_one_train_like_one_batch_of_eight(make_trainer, name):
    def train(**fields):
        trainer = make_trainer(optim=name, model=Perceptron(), data=points(), **fields)
        trainer.train()
        return values_of(trainer.model)

    at_once = train(per_device_train_batch_size=8)
    accumulated = train(per_device_train_batch_size=1, gradient_accumulation_steps=8)
    assert not torch.equal(at_once[0], values_of(Perceptron())[0])
    for p, q in zip(accumulated, at_once, strict=True):
        torch.testing.assert_close(p, q, rtol=0.0, atol=1e-6)


@any_name
@pytest.mark.parametrize("where", ["autocast", "parameters"])
def test_in_bfloat16_it_stays_finite_and_momentum_exact(make_trainer, name, where):
    recorder = Recorder()
    model = tiny_model().to(torch.bfloat16) if where == "parameters" else tiny_model()
    before = values_of(model)
    trainer = make_trainer(optim=name, model=model, bf16=where == "autocast", warmup_steps=2, callbacks=[recorder])
    trainer.train()
    if name != "ikfad":
        assert_momentum_followed(name, recorder.used)
    after = values_of(model)
    assert all(p.isfinite().all() for p in after)
    assert not torch.equal(after[0], before[0])
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert losses[-1] < losses[0]


@any_name
def test_a_step_is_made_with_the_clipped_gradients(make_trainer, name):
    """The optimizer alone, handed the gradients as they were after clipping, makes the same run to the bit."""
    recorder, limit = Recorder(gradients=True), 0.05
    trainer = make_trainer(optim=name, max_grad_norm=limit, weight_decay=0.0, callbacks=[recorder])
    trainer.train()
    norms = [record["grad_norm"] for record in trainer.state.log_history if "grad_norm" in record]
    assert min(norms) > limit, "the gradients of this test are not clipped"
    twin = tiny_model()
    cls, options = type(trainer.optimizer.optimizer), OPTIMIZERS[name].preset
    optimizer = cls(twin.parameters(), lr=0.05, **options, weight_decay=0.0)
    for gradients, used, after in zip(recorder.gradients, recorder.used, recorder.parameters, strict=True):
        total = torch.cat([g.reshape(-1) for g in gradients]).norm().item()
        assert total == pytest.approx(limit, rel=1e-4)
        optimizer.param_groups[0]["lr"] = used[0][0]
        for p, gradient in zip(twin.parameters(), gradients, strict=True):
            p.grad = gradient
        optimizer.step()
        assert_identical(values_of(twin), after)


class Overflow(TrainerCallback):
    """Makes the gradients of some steps infinite, as an overflow in half precision would."""

    def __init__(self, *steps):
        self.steps, self.calls, self.snapshots = steps, 0, []

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        if self.calls in self.steps:
            next(model.parameters()).grad.fill_(math.inf)
            self.snapshots.append((values_of(model), copy.deepcopy(optimizer.state_dict())))
        self.calls += 1

    def on_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        if self.calls - 1 in self.steps:
            values, saved = self.snapshots[-1]
            assert_identical(values_of(model), values)
            assert str(optimizer.state_dict()) == str(saved)


@any_name
def test_a_step_that_the_grad_scaler_skips_changes_neither_parameters_nor_state(make_trainer, name):
    overflow, recorder = Overflow(0, 4), Recorder()
    trainer = make_trainer(optim=name, max_grad_norm=0.0, callbacks=[overflow, recorder])
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)  # Accelerate has one for GPUs only
    trainer.train()
    assert len(overflow.snapshots) == 2
    if name != "ikfad":
        made = [used for step, used in enumerate(recorder.used) if step not in overflow.steps]
        assert_momentum_followed(name, made)
    rates = [groups[0][0] for groups in recorder.used]
    assert rates[4] == rates[5], "the scheduler does not count a step that was skipped"
    assert all(p.isfinite().all() for p in trainer.model.parameters())


class Unused(GPT2LMHeadModel):
    """A GPT-2 with a parameter that the loss never sees, and a frozen one."""

    def __init__(self, config):
        super().__init__(config)
        self.unused = torch.nn.Parameter(torch.ones(3))
        self.transformer.wpe.weight.requires_grad_(False)


@any_name
def test_parameters_without_a_gradient_stay_as_they_are(make_trainer, name):
    model = Unused(tiny_model().config)
    frozen = model.transformer.wpe.weight.detach().clone()
    make_trainer(optim=name, model=model).train()
    assert torch.equal(model.unused.detach(), torch.ones(3))
    assert torch.equal(model.transformer.wpe.weight, frozen)


# --- Checkpoints ----------------------------------------------------------------------------------------------------


@any_name
def test_a_run_resumed_in_the_middle_of_an_epoch_ends_the_same_to_the_bit(make_trainer, tmp_path, name):
    fields = {
        "optim": name,
        "save_strategy": "steps",
        "save_steps": 3,
        "warmup_steps": 4,
        "lr_scheduler_type": "cosine",
    }
    trainers = [make_trainer("straight", model=tiny_model(dropout=0.1), **fields)]
    trainers[0].train()
    trainers.append(make_trainer("resumed", model=tiny_model(dropout=0.1), **fields))
    trainers[1].train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-3"))
    straight, resumed = trainers
    assert_identical(values_of(resumed.model), values_of(straight.model))
    states = [trainer.optimizer.state_dict() for trainer in trainers]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for one, other in zip(states[0]["state"].values(), states[1]["state"].values(), strict=True):
        assert one.keys() == other.keys()
        for value, resumed_value in zip(one.values(), other.values(), strict=True):
            same = torch.equal if torch.is_tensor(value) else operator.eq
            assert same(value, resumed_value)
    losses = [[record["loss"] for record in t.state.log_history if "loss" in record] for t in trainers]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ({"optim": "sgd", "optim_args": "momentum=0.5"}, "critmom"),
        ({"optim": "sgd", "optim_args": "momentum=0.5"}, "critmom_hybrid"),
        ({"optim": "adamw_torch"}, "critmom_adamw"),
    ],
    ids=["sgd-critmom", "sgd-critmom_hybrid", "adamw-critmom_adamw"],
)
def test_checkpoints_are_exchanged_with_torchs_optimizers_in_both_directions(make_trainer, tmp_path, theirs, ours):
    """The state goes over; ours then follow the learning rate, torch's keep the momentum of the step they take over."""
    fields = {"save_strategy": "steps", "save_steps": 4}
    for first, second in itertools.permutations([theirs, {"optim": ours}]):
        folder, recorder = first["optim"], Recorder()
        make_trainer(folder, **first, **fields).train()
        saved = torch.load(tmp_path / folder / "checkpoint-4" / "optimizer.pt", weights_only=True)
        trainer = make_trainer("continued", **second, **fields, callbacks=[recorder])
        trainer.train(resume_from_checkpoint=str(tmp_path / folder / "checkpoint-4"))
        assert len(recorder.used) == STEPS - 4
        assert trainer.optimizer.state_dict()["state"].keys() == saved["state"].keys()
        if second["optim"] == ours:
            assert_momentum_followed(ours, recorder.used)
        else:
            assert {momentum for groups in recorder.used for _, momentum in groups} == {
                momentum_of(group) for group in saved["param_groups"]
            }


# --- Sparse gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_takes_sparse_gradients_as_torchs_own_does(foreach, nesterov):
    def train(make):
        torch.manual_seed(0)
        embedding = torch.nn.Embedding(6, 3, sparse=True)
        optimizer = make(embedding.parameters(), lr=0.04, nesterov=nesterov, foreach=foreach)
        for tokens in ([0, 1], [1, 1, 2], [5], [0, 2]):
            optimizer.zero_grad()
            embedding(torch.tensor(tokens)).square().sum().backward()
            assert embedding.weight.grad.is_sparse
            optimizer.step()
        return [embedding.weight.detach()]

    momentum = critical_momentum(0.04)
    assert_identical(train(CritMomSGD), train(lambda *args, **kw: torch.optim.SGD(*args, momentum=momentum, **kw)))
