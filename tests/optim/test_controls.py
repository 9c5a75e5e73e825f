"""Claims about the exact controls: whose integrated step they take, with whose momentum, in every kind of run."""

import copy
import math
import pickle

import pytest
import torch
from helpers.optimizer_runs import through_a_file
from helpers.tiny_models import Line
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.controls import ReferenceTwin
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR
from transformers import TrainingArguments

from hf_critmom import CritMomSGD, CritMomTrainer, critical_momentum
from hf_critmom.damping import integrated_steps, mean_integrated_step, mean_weight_decay_shrinkage
from hf_critmom.optim import OPTIMIZERS, CritMomCompensated, CritMomMatched

pytestmark = pytest.mark.filterwarnings("ignore:.*momentum is clamped to 0")

STEPS = 24
IMPLEMENTATIONS = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
any_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
CONTROLS = {"matched": CritMomMatched, "compensated": CritMomCompensated}
any_control = pytest.mark.parametrize("cls", CONTROLS.values(), ids=CONTROLS)


def constant_momentum(params, lr, rule=None, hold=None, floor=None, curvature=None, **options):
    """torch's SGD at momentum 0.9, which has none of the damping options."""
    return torch.optim.SGD(params, lr=lr, momentum=0.9, **options)


COUNTERPARTS = {"matched": (CritMomMatched, CritMomSGD), "compensated": (CritMomCompensated, constant_momentum)}
"""Each control with the optimizer whose integrated step it takes."""
any_counterpart = pytest.mark.parametrize(("control", "model"), COUNTERPARTS.values(), ids=COUNTERPARTS)

SCHEDULES = {
    "constant": lambda opt: LambdaLR(opt, lambda step: 1.0),
    "warmup from 0, cosine to 0": lambda opt: LambdaLR(
        opt, lambda step: min(step / 5, 0.5 + 0.5 * math.cos(math.pi * (step - 5) / (STEPS - 6)))
    ),
    "restarts": lambda opt: CosineAnnealingWarmRestarts(opt, 7),
    "beyond the clamp and back": lambda opt: LambdaLR(opt, lambda step: 4.0 if 8 <= step < 12 else 1.0),
    "pauses": lambda opt: LambdaLR(opt, lambda step: 0.0 if step % 6 in (3, 4) else 1.0),
}
any_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
OPTIONS = {
    "plain": {},
    "hybrid": {"hold": 0.9},
    "exact": {"rule": "exact", "curvature": 3.0},
    "nesterov": {"nesterov": True, "rule": "exponential"},
    "bounded": {"hold": 0.8, "floor": 0.3, "nesterov": True},
    "maximize": {"maximize": True},
}
any_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def parameters(count=3):
    return [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(count)]


def values(params):
    return torch.stack([p.detach() for p in params])


def displacements(optimizer, params, schedule, steps=STEPS, present=lambda index, step: True):
    """What each step adds to each parameter, while every gradient there is is 1."""
    scheduler, moved = schedule(optimizer), []
    for step in range(steps):
        for index, p in enumerate(params):
            p.grad = torch.ones_like(p) if present(index, step) else None
        before = values(params)
        optimizer.step()
        scheduler.step()
        moved.append(values(params) - before)
    return torch.stack(moved)


def with_gaps(index, step):
    return index > 0 or step % 3 > 0


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


# --- Whose step -----------------------------------------------------------------------------------------------------


@any_counterpart
@any_schedule
@any_options
def test_on_a_constant_gradient_every_step_is_that_of_the_counterpart(control, model, schedule, options):
    ours, theirs = parameters(), parameters()
    moved = displacements(control(ours, lr=0.1, **options), ours, schedule)
    assert moved.abs().max() > 0.01
    assert_same(moved, displacements(model(theirs, lr=0.1, **options), theirs, schedule))


@any_counterpart
@any_implementation
def test_so_it_is_in_every_implementation(control, model, implementation):
    ours, theirs = parameters(), parameters()
    schedule = SCHEDULES["warmup from 0, cosine to 0"]
    moved = displacements(control(ours, lr=0.2, **implementation), ours, schedule)
    assert_same(moved, displacements(model(theirs, lr=0.2, **implementation), theirs, schedule))


@any_counterpart
@pytest.mark.parametrize(
    "present",
    [
        lambda index, step: index == 0 or step >= 9,
        lambda index, step: index == 0 or step < 9,
        lambda index, step: (step * 7 + index * 5) % 11 < 6,
    ],
    ids=["some join late", "some leave early", "each as it likes"],
)
def test_so_it_is_for_each_parameter_that_misses_steps(control, model, present):
    ours, theirs = parameters(), parameters()
    schedule = SCHEDULES["warmup from 0, cosine to 0"]
    moved = displacements(control(ours, lr=0.1), ours, schedule, present=present)
    assert_same(moved, displacements(model(theirs, lr=0.1), theirs, schedule, present=present))


@any_counterpart
def test_so_it_is_for_each_group_by_its_own_learning_rate_and_options(control, model):
    ours, theirs = parameters(), parameters()
    schedule = SCHEDULES["restarts"]
    moved = []
    for cls, params in ((control, ours), (model, theirs)):
        own = [{}, {"lr": 0.02}, {"lr": 0.3, "rule": "exact", "hold": 0.5}]
        groups = [{"params": [p], **options} for p, options in zip(params, own, strict=True)]
        moved.append(displacements(cls(groups, lr=0.1), params, schedule))
    assert_same(*moved)


@any_counterpart
@settings(deadline=None, max_examples=30)
@given(rates=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12), nesterov=st.booleans())
def test_so_it_is_for_any_learning_rates(control, model, rates, nesterov):
    moved = []
    for cls in (control, model):
        params = parameters(1)
        optimizer = cls(params, lr=1.0, nesterov=nesterov)
        moved.append(
            displacements(optimizer, params, lambda opt: LambdaLR(opt, lambda s: [*rates, 0.0][s]), len(rates))
        )
    assert_same(*moved)


# --- With whose momentum --------------------------------------------------------------------------------------------


TWINS = {"matched": (CritMomMatched, 0.9, None), "compensated": (CritMomCompensated, None, 0.9)}


@pytest.mark.parametrize(("cls", "used", "taken"), TWINS.values(), ids=TWINS)
@any_implementation
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_with_any_gradients_every_step_agrees_with_the_reference_twin(
    cls, used, taken, implementation, nesterov, weight_decay
):
    options = {"nesterov": nesterov, "weight_decay": weight_decay}
    p = torch.nn.Parameter(torch.tensor([1.5], dtype=torch.float64))
    optimizer = cls([p], lr=0.1, **options, **implementation)
    twin = ReferenceTwin(1.5, used, taken, **options)
    generator = torch.Generator().manual_seed(0)
    for lr in (0.0, 0.02, 0.1, 0.24, 0.25, 0.3, 0.2, 0.01, 0.0, 0.0025, 0.001, 0.0):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = torch.randn(1, generator=generator, dtype=torch.float64)
        twin.step(lr, p.grad.item())
        optimizer.step()
        assert p.item() == pytest.approx(twin.value, rel=1e-12, abs=1e-12)
        group = optimizer.param_groups[0]
        assert group["momentum"] == (critical_momentum(lr) if used is None else used)
        assert group["effective_lr"] == pytest.approx(lr * twin.integrated(taken) / twin.integrated(used), rel=1e-12)
        assert group["lr"] == lr, "the scheduler's learning rate stays"


def test_at_the_learning_rate_where_nine_tenths_is_critical_all_are_one():
    lr = 0.05**2
    moved = []
    for cls in (CritMomSGD, CritMomMatched, CritMomCompensated, constant_momentum):
        params = parameters(1)
        moved.append(displacements(cls(params, lr=lr), params, SCHEDULES["constant"]))
    for other in moved[1:]:
        assert_same(moved[0], other)


# --- A good citizen -------------------------------------------------------------------------------------------------


def test_a_control_that_continues_the_other_takes_its_velocity_for_what_it_is():
    p = torch.nn.Parameter(torch.zeros(1))
    p.grad = torch.ones(1)
    matched = CritMomMatched([p], lr=0.1)
    for _ in range(60):
        matched.step()
    compensated = CritMomCompensated([p], lr=0.1)
    compensated.load_state_dict(matched.state_dict())
    for _ in range(5):
        before = p.item()
        compensated.step()
        assert before - p.item() == pytest.approx(0.1 / (1.0 - 0.9), rel=0.01)


@any_control
@pytest.mark.parametrize("cut", [1, 6, 13])
def test_a_run_resumed_from_its_state_dict_continues_to_the_bit(cls, cut):
    options = {"rule": "exact", "hold": 0.8, "nesterov": True, "weight_decay": 0.01}
    params = parameters()
    optimizer = cls(params, lr=0.1, **options)
    schedule = SCHEDULES["warmup from 0, cosine to 0"]
    displacements(optimizer, params, schedule, cut, with_gaps)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = cls(copies, lr=9.0, **options)
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    for one, own in ((optimizer, params), (resumed, copies)):
        displacements(one, own, SCHEDULES["restarts"], 10, with_gaps)
    assert torch.equal(values(copies), values(params))
    assert str(resumed.state_dict()) == str(optimizer.state_dict())


@any_control
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"]
)
def test_copies_continue_to_the_bit(cls, duplicate):
    params = parameters()
    optimizer = cls(params, lr=0.1)
    displacements(optimizer, params, SCHEDULES["restarts"], 5)
    twin, copies = duplicate((optimizer, params))
    for one, own in ((optimizer, params), (twin, copies)):
        displacements(one, own, SCHEDULES["restarts"], 5)
    assert torch.equal(values(copies), values(params))


@any_control
def test_state_dicts_hold_only_plain_values_beside_the_velocities(cls):
    params = parameters()
    optimizer = cls(params, lr=0.1, hold=0.9)
    displacements(optimizer, params, SCHEDULES["restarts"], 5)
    for group in optimizer.state_dict()["param_groups"]:
        for name, value in group.items():
            assert name == "params" or type(value) in (bool, int, float, str, type(None)), name
    for state in optimizer.state_dict()["state"].values():
        assert {name: type(value) for name, value in state.items() if name != "momentum_buffer"} == {
            "critical_sum": float,
            "constant_sum": float,
        }


@any_control
def test_a_learning_rate_in_a_tensor_steps_like_the_same_number(cls):
    moved = []
    for lr in (0.125, torch.tensor(0.125, dtype=torch.float64)):
        params = parameters(1)
        optimizer = cls(params, lr=lr)
        moved.append(displacements(optimizer, params, SCHEDULES["restarts"]))
        assert type(optimizer.param_groups[0]["effective_lr"]) is float
    assert_same(*moved)


@any_control
def test_a_step_that_only_looks_for_the_state_is_no_step(cls):
    """`torch.distributed.checkpoint` makes a first step at learning rate 0 with gradients of 0."""
    moved = []
    for probed in (False, True):
        params = parameters(2)
        optimizer = cls(params, lr=0.1)
        if probed:
            optimizer.param_groups[0]["lr"] = 0.0
            for p in params:
                p.grad = torch.zeros_like(p)
            optimizer.step()
            optimizer.param_groups[0]["lr"] = 0.1
        moved.append(displacements(optimizer, params, SCHEDULES["restarts"]))
    assert torch.equal(*moved)


@any_control
@any_implementation
def test_a_step_that_a_grad_scaler_skips_is_as_if_it_had_not_been(cls, implementation):
    skipping, straight = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizers = [cls([p], lr=0.1, **implementation) for p in (skipping, straight)]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    for step in range(6):
        for p, optimizer in zip((skipping, straight), optimizers, strict=True):
            overflows = p is skipping and step == 2
            if p is straight and step == 2:
                continue
            scaler.scale(torch.zeros(1))  # the scaler wants to have scaled a loss
            p.grad = torch.full((2,), math.inf if overflows else scaler.get_scale())
            scaler.step(optimizer)
            scaler.update()
    assert torch.equal(skipping, straight)


@any_control
@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf])
def test_a_learning_rate_that_becomes_impossible_stops_the_step_before_it_moves_anything(cls, lr):
    params = parameters()
    optimizer = cls([{"params": params[:2]}, {"params": params[2:]}], lr=0.1)
    displacements(optimizer, params, SCHEDULES["constant"], 3)
    before, state = values(params), str(optimizer.state_dict()["state"])
    optimizer.param_groups[1]["lr"] = lr
    with pytest.raises(ValueError, match="learning rate"):
        optimizer.step()
    assert torch.equal(values(params), before)
    assert str(optimizer.state_dict()["state"]) == state


@pytest.mark.parametrize("name", ["critmom_matched", "critmom_compensated"])
def test_they_are_names_of_optim_with_the_options_of_critmom(name):
    assert OPTIMIZERS[name].cls is CONTROLS[name.removeprefix("critmom_")]
    assert OPTIMIZERS[name].options == OPTIMIZERS["critmom"].options


# --- What a comparison reports --------------------------------------------------------------------------------------


def cosine(peak, steps=2000):
    return [peak * 0.5 * (1.0 + math.cos(math.pi * step / steps)) for step in range(steps)]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("cls", [CritMomSGD, CritMomMatched, CritMomCompensated])
def test_integrated_steps_are_what_a_run_moves_by(cls, nesterov):
    params, records = parameters(1), []
    optimizer = cls(params, lr=0.1, nesterov=nesterov)
    optimizer.register_step_post_hook(
        lambda opt, *_: records.append(
            (opt.param_groups[0].get("effective_lr", opt.param_groups[0]["lr"]), opt.param_groups[0]["momentum"])
        )
    )
    moved = displacements(optimizer, params, SCHEDULES["warmup from 0, cosine to 0"])
    steps = integrated_steps(records, nesterov=nesterov)
    assert (-moved[:, 0, 0]).tolist() == pytest.approx(steps, rel=1e-9, abs=1e-13)
    assert mean_integrated_step(records, nesterov=nesterov) == pytest.approx(sum(steps) / STEPS)


def test_critmom_shrinks_weights_a_fifth_as_much_as_constant_momentum_and_adamw_a_tenth():
    """At peak learning rate 0.1 and decay 5e-4 under a cosine; AdamW by its defaults, 1e-3 and 0.05."""
    rates = cosine(0.1)
    constant = mean_weight_decay_shrinkage([(lr, 0.9) for lr in rates], 5e-4)
    critical = mean_weight_decay_shrinkage([(lr, critical_momentum(lr)) for lr in rates], 5e-4)
    adamw = mean_weight_decay_shrinkage([(lr, 0.9) for lr in cosine(1e-3)], 0.05, decoupled=True)
    assert critical / constant == pytest.approx(0.20, abs=0.005)
    assert adamw / constant == pytest.approx(0.10, abs=0.005)


def test_a_constant_momentum_tends_to_its_mean_step():
    assert integrated_steps([(0.1, 0.9)] * 500)[-1] == pytest.approx(0.1 / (1.0 - 0.9))
    assert integrated_steps([(0.1, 0.9)] * 500, averaged=True) == [0.1] * 500


@pytest.mark.parametrize(
    ("records", "options", "named"),
    [
        ([], {}, "without steps"),
        ([(0.1, 1.5)], {}, "1.5"),
        ([(0.1, 0.9)], {"nesterov": True, "averaged": True}, "one of nesterov and averaged"),
    ],
)
def test_records_that_cannot_be_are_named(records, options, named):
    with pytest.raises(ValueError, match=named):
        mean_integrated_step(records, **options)


@pytest.mark.parametrize("name", ["critmom_matched", "critmom_compensated"])
def test_the_trainer_logs_the_learning_rate_that_was_taken_beside_the_schedulers(name, tmp_path):
    args = TrainingArguments(
        str(tmp_path), use_cpu=True, optim=name, learning_rate=0.04, lr_scheduler_type="cosine", max_steps=4,
        logging_steps=1, save_strategy="no", report_to="none",
    )  # fmt: skip
    trainer = CritMomTrainer(Line(), args, train_dataset=[{"x": torch.ones(2), "labels": torch.ones(1)}] * 8)
    trainer.train()
    records = [record for record in trainer.state.log_history if "loss" in record]
    critical = [(record["learning_rate"], critical_momentum(record["learning_rate"])) for record in records]
    constant = [(lr, 0.9) for lr, _ in critical]
    taken = [(record["effective_lr"], record["momentum"]) for record in records]
    intended = critical if name == "critmom_matched" else constant
    assert integrated_steps(taken) == pytest.approx(integrated_steps(intended), rel=1e-9)
    for lr, momentum in taken:
        assert momentum == 0.9 or name == "critmom_compensated"
        assert lr > 0.0
