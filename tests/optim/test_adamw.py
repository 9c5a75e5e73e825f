"""Claims about `CritMomAdamW`: what a step computes, with and without gradients, and that it remains torch's AdamW."""

import collections
import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from helpers.adamw_runs import (
    ALWAYS,
    PATTERNS,
    SCHEDULE,
    SHAPES,
    any_pattern,
    assert_same,
    parameters,
    presence_of,
    train,
)
from helpers.optimizer_runs import any_implementation, assert_identical, give_gradients, set_lr, through_a_file
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.adamw import ReferenceTwin
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from hf_critmom import CritMomAdamW
from hf_critmom.damping import critical_momentum

pytestmark = pytest.mark.filterwarnings("ignore:.*momentum is clamped to 0")


# --- What a step computes -------------------------------------------------------------------------------------------


@any_implementation
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rule": "exact"},
        {"rule": "exponential"},
        {"rule": "ema"},
        {"curvature": 4.0},
        {"hold": 0.9},
        {"floor": 0.3},
        {"amsgrad": True},
        {"maximize": True},
        {"weight_decay": 0.0},
        {"betas": (0.9, 0.9), "eps": 1e-3, "weight_decay": 0.5},
        {"rule": "ema", "hold": 0.95, "floor": 0.1, "amsgrad": True, "maximize": True, "weight_decay": 0.1},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_every_step_agrees_with_the_reference_twin(implementation, options):
    params = parameters()
    twin = ReferenceTwin(params, **options)
    optimizer = CritMomAdamW(params, lr=0.1, **options, **implementation)
    generator = torch.Generator().manual_seed(1)
    for lr in SCHEDULE:
        set_lr(optimizer, lr)
        twin.step(lr, give_gradients(params, generator))
        optimizer.step()
        assert_same(params, twin.values)
        assert_same([optimizer.state[p]["exp_avg"] for p in params], twin.m)
        assert optimizer.param_groups[0]["betas"][0] == pytest.approx(twin.beta1(lr), rel=0.0, abs=1e-15)


@settings(deadline=None, max_examples=40)
@given(steps=st.lists(st.tuples(st.floats(0.0, 2.0), st.tuples(*[st.booleans()] * len(SHAPES))), max_size=8))
def test_any_schedule_and_any_missing_gradients_agree_with_the_twin(steps):
    params = parameters()
    twin = ReferenceTwin(params)
    optimizer = CritMomAdamW(params, lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for lr, present in steps:
        set_lr(optimizer, lr)
        twin.step(lr, give_gradients(params, generator, present))
        optimizer.step()
    assert_same(params, twin.values, tolerance=1e-9)


@any_implementation
def test_in_single_precision_it_agrees_with_the_twin_to_single_precision(implementation):
    params = parameters(dtype=torch.float32)
    twin = ReferenceTwin([p.detach().double() for p in params])
    optimizer = CritMomAdamW(params, lr=0.1, **implementation)
    generator = torch.Generator().manual_seed(1)
    for lr in (0.0, *(1e-8, 1e-6, 1e-4, 1e-2) * 5):
        set_lr(optimizer, lr)
        twin.step(lr, [gradient.double() for gradient in give_gradients(params, generator)])
        optimizer.step()
    assert_same([p.double() for p in params], twin.values, tolerance=1e-6)


@any_implementation
def test_every_group_has_its_own_learning_rate_rule_and_decay(implementation):
    params = parameters()
    own = [{}, {"rule": "ema", "weight_decay": 0.3}, {"hold": 0.5, "eps": 1e-4}]
    parts = [params[:2], params[2:3], params[3:]]
    twins = [ReferenceTwin(part, **options) for part, options in zip(parts, own, strict=True)]
    groups = [{"params": part, **options} for part, options in zip(parts, own, strict=True)]
    optimizer = CritMomAdamW(groups, lr=0.1, **implementation)
    generator = torch.Generator().manual_seed(1)
    for lr in SCHEDULE:
        give_gradients(params, generator)
        for factor, group, twin in zip((1.0, 0.1, 2.0), optimizer.param_groups, twins, strict=True):
            group["lr"] = factor * lr
            twin.step(factor * lr, [p.grad for p in group["params"]])
        optimizer.step()
        for part, twin in zip(parts, twins, strict=True):
            assert_same(part, twin.values)


@any_implementation
def test_a_first_step_at_learning_rate_zero_moves_nothing_and_poisons_nothing(implementation):
    params = parameters()
    before = [p.detach().clone() for p in params]
    optimizer = CritMomAdamW(params, lr=0.0, **implementation)
    for _ in range(3):
        train(optimizer, params, [0.0])
        assert_identical(params, before)
        for p in params:
            assert all(torch.as_tensor(value).isfinite().all() for value in optimizer.state[p].values())
    assert all(0.0 < 1.0 - optimizer.state[p]["beta1_product"] < 1e-15 for p in params)
    train(optimizer, params, [0.1])
    assert all(p.isfinite().all() for p in params)
    # Gradients that were seen at learning rate 0 weigh nothing: the first real step is that of a sign, as Adam's.
    moved = [(p - q * (1.0 - 0.1 * 1e-2)).abs() for p, q in zip(params, before, strict=True)]
    assert all((step < 0.1 * 4.0**0.5 + 1e-6).all() for step in moved)


@pytest.mark.parametrize("lr", [0.0, 0.1])
def test_gradients_flow_through_a_differentiable_step_also_at_learning_rate_zero(lr):
    start = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    p = start.clone()
    optimizer = CritMomAdamW([p], lr=lr, differentiable=True, weight_decay=0.0)
    p.grad = (3.0 * start).detach()
    optimizer.step()
    p.sum().backward()
    assert torch.equal(start.grad, torch.ones(2, dtype=torch.float64))
    expected = start.detach() - lr * start.detach().sign()
    torch.testing.assert_close(p.detach(), expected, rtol=1e-6, atol=1e-6)


def test_the_ema_rule_is_the_double_root_of_averaged_gradient_descent():
    """On a quadratic, iterates of ``m <- beta m + (1 - beta) k x, x <- x - lr m`` stop oscillating at this beta."""

    def oscillates(beta, lr, k):
        return np.iscomplex(np.linalg.eigvals([[beta, (1 - beta) * k], [-lr * beta, 1 - lr * (1 - beta) * k]])).any()

    for lr, k in itertools.product((1e-3, 0.05, 0.4), (0.5, 1.0, 2.0)):
        calm, oscillating = 0.0, 1.0  # bisect for the largest beta whose iterates do not oscillate
        for _ in range(40):
            beta = (calm + oscillating) / 2
            calm, oscillating = (calm, beta) if oscillates(beta, lr, k) else (beta, oscillating)
        assert critical_momentum(lr, rule="ema", curvature=k) == pytest.approx(calm, abs=1e-9)


# --- Parameters without a gradient ----------------------------------------------------------------------------------


@any_implementation
@any_pattern
@pytest.mark.parametrize("saved_after", [None, 2, 5, 9])
def test_a_parameter_that_misses_steps_keeps_a_correction_of_its_own(implementation, pattern, saved_after):
    params = parameters()
    twin = ReferenceTwin(params)
    optimizer = CritMomAdamW(params, lr=0.1, **implementation)
    generator = torch.Generator().manual_seed(1)
    for i, (lr, present) in enumerate(zip(SCHEDULE, presence_of(pattern), strict=True)):
        if i == saved_after:
            saved = through_a_file(optimizer.state_dict())
            optimizer = CritMomAdamW(params, lr=0.5, rule="exact", **implementation)
            optimizer.load_state_dict(saved)
        set_lr(optimizer, lr)
        twin.step(lr, give_gradients(params, generator, present))
        optimizer.step()
        assert_same(params, twin.values)


def test_the_state_is_torchs_and_two_plain_numbers():
    for options in ({}, {"amsgrad": True}):
        ours, theirs = parameters(), parameters()
        optimizer, plain = CritMomAdamW(ours, lr=0.1, **options), torch.optim.AdamW(theirs, lr=0.1, **options)
        train(optimizer, ours)
        train(plain, theirs)
        for p, q in zip(ours, theirs, strict=True):
            state = dict(optimizer.state[p])
            assert type(num_steps := state.pop("num_steps")) is int
            assert type(state.pop("beta1_product")) is float
            assert {key: value.shape for key, value in state.items()} == {
                key: value.shape for key, value in plain.state[q].items()
            }
            assert state["step"] == plain.state[q]["step"] == num_steps == len(SCHEDULE)


def test_a_parameter_that_never_has_a_gradient_has_no_state():
    params = parameters()
    optimizer = CritMomAdamW(params, lr=0.1)
    train(optimizer, params, presence=presence_of(PATTERNS["one never has any"]))
    assert [bool(optimizer.state.get(p)) for p in params] == [True, False, True, True]


# --- Beside torch's AdamW -------------------------------------------------------------------------------------------


@any_implementation
@pytest.mark.parametrize(
    "options",
    [{}, {"amsgrad": True}, {"maximize": True}, {"betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.0}],
    ids=lambda options: "+".join(options) or "plain",
)
def test_held_at_a_constant_beta_it_is_torchs_adamw(implementation, options):
    ours, theirs = parameters(), parameters()
    optimizer = CritMomAdamW(ours, lr=0.1, hold=0.9, floor=0.9, **options, **implementation)
    plain = torch.optim.AdamW(theirs, lr=0.1, **{"betas": (0.9, 0.999), **options}, **implementation)
    assert_same(train(optimizer, ours), train(plain, theirs))


@pytest.mark.parametrize("pattern", [PATTERNS[name] for name in ("one joins late", "each as it likes")])
@pytest.mark.parametrize("cut", [0, 1, 6])
def test_it_continues_a_run_of_torchs_adamw(cut, pattern):
    """With its own beta held at the one of that run, it does what torch's AdamW would have done."""
    presence = presence_of(pattern)
    ours, theirs = parameters(), parameters()
    plain = torch.optim.AdamW(theirs, lr=0.1, betas=(0.9, 0.999))
    train(plain, theirs, SCHEDULE[:cut], seed=2, presence=presence[:cut])
    with torch.no_grad():
        for p, q in zip(ours, theirs, strict=True):
            p.copy_(q)
    optimizer = CritMomAdamW(ours, lr=0.5, hold=0.9, floor=0.9)
    optimizer.load_state_dict(through_a_file(plain.state_dict()))
    rest = {"schedule": SCHEDULE[cut:], "seed": 3, "presence": presence[cut:]}
    assert_same(train(optimizer, ours, **rest), train(plain, theirs, **rest))


def test_torchs_adamw_continues_a_run_of_ours():
    ours, theirs = parameters(), parameters()
    optimizer = CritMomAdamW(ours, lr=0.1, hold=0.9, floor=0.9)
    train(optimizer, ours, SCHEDULE[:6], seed=2)
    with torch.no_grad():
        for p, q in zip(ours, theirs, strict=True):
            q.copy_(p)
    plain = torch.optim.AdamW(theirs, lr=0.5)
    plain.load_state_dict(through_a_file(optimizer.state_dict()))
    rest = {"schedule": SCHEDULE[6:], "seed": 3}
    assert_same(train(plain, theirs, **rest), train(optimizer, ours, **rest))


@pytest.mark.parametrize("pattern", [PATTERNS["each as it likes"], (ALWAYS,) * 4], ids=["some missing", "all present"])
def test_a_run_that_was_torchs_in_between_is_counted_right_and_that_is_said(pattern):
    """torch hands our counts back as it got them, though it made steps: only a constant beta can be made up for."""
    presence = presence_of(pattern)
    ours, theirs = parameters(), parameters()
    plain = torch.optim.AdamW(theirs, lr=0.1, betas=(0.9, 0.999))
    optimizer = CritMomAdamW(ours, lr=0.1, hold=0.9, floor=0.9)
    between = torch.optim.AdamW(ours, lr=0.1)
    again = CritMomAdamW(ours, lr=0.1)
    parts = [slice(0, 3), slice(3, 7), slice(7, len(SCHEDULE))]
    for last, current, part in zip([None, optimizer, between], [optimizer, between, again], parts, strict=True):
        steps = {"schedule": SCHEDULE[part], "seed": part.start, "presence": presence[part]}
        if current is again:
            with pytest.warns(UserWarning, match="went through another optimizer"):
                current.load_state_dict(through_a_file(last.state_dict()))
        elif last is not None:
            current.load_state_dict(through_a_file(last.state_dict()))
        assert_same(train(current, ours, **steps), train(plain, theirs, **steps))


def as_of_release_0_1(state_dict):
    """A state dict in the layout of release 0.1: the numbers in the group, and with parameters that missed steps."""
    state_dict = copy.deepcopy(state_dict)
    for group in state_dict["param_groups"]:
        states = [state_dict["state"][index] for index in group["params"] if index in state_dict["state"]]
        most = max(states, key=lambda state: state["num_steps"], default={"num_steps": 0, "beta1_product": 1.0})
        numbers = {name: most[name] for name in ("num_steps", "beta1_product")}
        group.update(numbers, in_step=len(states) == len(group["params"]))
        for state in states:
            if numbers == {name: state[name] for name in numbers}:
                del state["num_steps"], state["beta1_product"]
            else:
                group["in_step"] = False
    return state_dict


@pytest.mark.parametrize("pattern", [PATTERNS["each as it likes"], (ALWAYS,) * 4], ids=["some missing", "all present"])
def test_checkpoints_of_release_0_1_continue_to_the_bit(pattern):
    presence = presence_of(pattern)
    params = parameters()
    optimizer = CritMomAdamW(params, lr=0.1)
    train(optimizer, params, SCHEDULE[:7], presence=presence[:7])
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = CritMomAdamW(copies, lr=0.5)
    resumed.load_state_dict(through_a_file(as_of_release_0_1(optimizer.state_dict())))
    rest = {"schedule": SCHEDULE[7:], "seed": 3, "presence": presence[7:]}
    assert_identical(train(resumed, copies, **rest), train(optimizer, params, **rest))
    assert str(resumed.state_dict()) == str(optimizer.state_dict())


@any_implementation
def test_a_step_that_only_looks_for_the_state_is_no_step(implementation):
    """`torch.distributed.checkpoint` makes a first step at learning rate 0 with gradients of 0."""
    params, untouched = parameters(), parameters()
    optimizer, plain = CritMomAdamW(params, lr=0.0, **implementation), CritMomAdamW(untouched, lr=0.0, **implementation)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert_identical(train(optimizer, params, SCHEDULE[1:]), train(plain, untouched, SCHEDULE[1:]))


def test_it_is_torchs_adamw():
    assert isinstance(CritMomAdamW(parameters(), lr=0.1), torch.optim.AdamW)


@any_implementation
def test_a_sparse_gradient_is_refused_as_torch_refuses_it(implementation):
    messages = []
    for make in (CritMomAdamW, torch.optim.AdamW):
        embedding = torch.nn.Embedding(4, 2, sparse=True)
        optimizer = make(embedding.parameters(), lr=0.1, **implementation)
        embedding(torch.tensor([1])).sum().backward()
        with pytest.raises(RuntimeError, match="sparse") as raised:
            optimizer.step()
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


# --- A good citizen -------------------------------------------------------------------------------------------------


def test_param_groups_hold_only_plain_values():
    params = parameters()
    optimizer = CritMomAdamW(params, lr=0.1)
    train(optimizer, params)
    for group in optimizer.state_dict()["param_groups"]:
        for key, value in group.items():
            for item in value if isinstance(value, (tuple, list)) else (value,):
                assert item is None or type(item) in (bool, int, float, str), f"{key} is {item!r}"


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))],
    ids=["deepcopy", "pickle"],
)
@any_implementation
def test_copies_continue_to_the_bit(duplicate, implementation):
    params = parameters()
    optimizer = CritMomAdamW(params, lr=0.1, rule="ema", hold=0.95, **implementation)
    presence = presence_of(PATTERNS["two alternate"])
    train(optimizer, params, SCHEDULE[:6], presence=presence[:6])
    twin, twin_params = duplicate((optimizer, params))
    rest = {"schedule": SCHEDULE[6:], "seed": 5, "presence": presence[6:]}
    assert_identical(train(optimizer, params, **rest), train(twin, twin_params, **rest))


@any_implementation
def test_a_run_resumed_from_its_state_dict_continues_to_the_bit(implementation):
    params = parameters()
    optimizer = CritMomAdamW(params, lr=0.1, **implementation)
    train(optimizer, params, SCHEDULE[:6])
    saved, values = through_a_file(optimizer.state_dict()), copy.deepcopy(params)
    ended = train(optimizer, params, SCHEDULE[6:], seed=5)
    resumed = CritMomAdamW(values, lr=0.3, **implementation)
    resumed.load_state_dict(saved)
    assert_identical(train(resumed, values, SCHEDULE[6:], seed=5), ended)


def test_a_group_that_is_added_later_starts_its_own_correction():
    first, second = parameters(0), parameters(1)
    optimizer = CritMomAdamW(first, lr=0.1)
    train(optimizer, first, SCHEDULE[:5])
    optimizer.add_param_group({"params": second, "rule": "ema"})
    twin = ReferenceTwin(second, rule="ema")
    generator = torch.Generator().manual_seed(4)
    for lr in SCHEDULE[5:]:
        set_lr(optimizer, lr)
        twin.step(lr, give_gradients(second, generator))
        optimizer.step()
    assert_same(second, twin.values)


def test_hooks_run_once_per_step():
    calls = collections.Counter()
    everywhere = [
        register_optimizer_step_pre_hook(lambda *_: calls.update(["pre everywhere"])),
        register_optimizer_step_post_hook(lambda *_: calls.update(["post everywhere"])),
    ]
    try:
        params = parameters()
        torch.optim.AdamW(params, lr=0.1)  # torch wraps the class's own step at the first construction
        optimizer = CritMomAdamW(params, lr=0.1)
        optimizer.register_step_pre_hook(lambda *_: calls.update(["pre"]))
        optimizer.register_step_post_hook(lambda *_: calls.update(["post"]))
        train(optimizer, params, [0.1])
    finally:
        for handle in everywhere:
            handle.remove()
    assert calls == {"pre everywhere": 1, "post everywhere": 1, "pre": 1, "post": 1}


def test_the_closure_is_evaluated_once_with_gradients_and_its_loss_returned():
    p = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = CritMomAdamW([p], lr=0.1)
    calls = []

    def closure():
        assert torch.is_grad_enabled()
        calls.append(optimizer.param_groups[0]["params"])
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert calls == [[p]]


@any_implementation
def test_a_step_that_a_grad_scaler_skips_is_as_if_it_had_not_been(implementation):
    skipping, straight = parameters(dtype=torch.float32), parameters(dtype=torch.float32)
    optimizers = [CritMomAdamW(params, lr=0.1, **implementation) for params in (skipping, straight)]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    generators = [torch.Generator().manual_seed(1) for _ in optimizers]

    def scaled_step(optimizer, params, overflow=False):
        scaler.scale(torch.zeros(1))  # the scaler wants to have scaled a loss
        with torch.no_grad():
            for p in params:
                p.grad.mul_(math.inf if overflow else scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()

    for i, lr in enumerate((0.0, 0.01, 0.1, 0.05, 0.02)):
        for optimizer, params, generator in zip(optimizers, (skipping, straight), generators, strict=True):
            set_lr(optimizer, lr)
            if params is skipping and i in (0, 2):
                before = copy.deepcopy(optimizer.state_dict())
                give_gradients(params, torch.Generator().manual_seed(9))
                scaled_step(optimizer, params, overflow=True)
                assert str(optimizer.state_dict()) == str(before)
            give_gradients(params, generator)
            if params is skipping:
                scaled_step(optimizer, params)
            else:
                optimizer.step()
    assert_identical(skipping, straight)
    products = [[optimizer.state[p]["beta1_product"] for p in optimizer.state] for optimizer in optimizers]
    assert products[0] == products[1]


@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf])
def test_a_learning_rate_that_becomes_impossible_stops_the_step_before_it_moves_anything(lr):
    params = parameters()
    optimizer = CritMomAdamW([{"params": params[:2]}, {"params": params[2:]}], lr=0.1)
    train(optimizer, params, SCHEDULE[:3])
    before, state = [p.detach().clone() for p in params], str(optimizer.state_dict())
    optimizer.param_groups[1]["lr"] = lr
    give_gradients(params, torch.Generator().manual_seed(7))
    with pytest.raises(ValueError, match="learning rate"):
        optimizer.step()
    assert_identical(params, before)
    optimizer.param_groups[1]["lr"] = SCHEDULE[2]
    assert str(optimizer.state_dict()) == state
