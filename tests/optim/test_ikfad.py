"""Claims about `IKFAD`: its splitting against a naive twin, its kinship with critical damping, its friction."""

import collections
import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from helpers import optimizer_runs
from helpers.optimizer_runs import (
    SHAPES,
    assert_a_closure_is_evaluated_once,
    assert_identical,
    give_gradients,
    parameters,
    set_lr,
    through_a_file,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.ikfad import ReferenceTwin

from hf_critmom import IKFAD, CritMomSGD

IMPLEMENTATIONS = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "default": {}}
any_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)

SCHEDULE = (0.0, 1e-6, 0.01, 0.1, 0.0, 0.3, 1.0, 0.05, 1e-3, 0.02)
FRICTIONLESS = {"mass": 1e200}
"""Kinetic energy then raises friction by nothing that a float could hold beside 1."""


def train(optimizer, params, schedule=SCHEDULE, seed=1):
    return optimizer_runs.train(optimizer, params, schedule, seed)


def assert_same(tensors, values, tolerance=1e-12):
    for tensor, value in zip(tensors, values, strict=True):
        np.testing.assert_allclose(tensor.detach().numpy(), value, rtol=tolerance, atol=tolerance)


@any_implementation
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gamma": 2.0},
        {"alpha": 3.0},
        {"mass": 0.1},
        {"weight_decay": 0.1},
        {"maximize": True},
        {"gamma": 0.5, "alpha": 0.2, "mass": 4.0, "weight_decay": 0.01, "maximize": True},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_every_step_agrees_with_the_reference_twin(implementation, options):
    params = parameters()
    twin = ReferenceTwin(params, **options)
    optimizer = IKFAD(params, lr=0.1, **options, **implementation)
    generator = torch.Generator().manual_seed(1)
    for lr in SCHEDULE:
        set_lr(optimizer, lr)
        twin.step(lr, give_gradients(params, generator))
        optimizer.step()
        assert_same(params, twin.x)
        assert_same([optimizer.state[p]["velocity"] for p in params], twin.p)
        assert_same([optimizer.state[p]["friction"] for p in params], twin.xi)


@settings(deadline=None, max_examples=40)
@given(
    steps=st.lists(st.tuples(st.floats(0.0, 2.0), st.tuples(*[st.booleans()] * len(SHAPES))), max_size=8),
    foreach=st.booleans(),
)
def test_any_schedule_and_any_missing_gradients_agree_with_the_twin(steps, foreach):
    params = parameters()
    twin = ReferenceTwin(params)
    optimizer = IKFAD(params, lr=0.1, foreach=foreach)
    generator = torch.Generator().manual_seed(1)
    for lr, present in steps:
        set_lr(optimizer, lr)
        twin.step(lr, give_gradients(params, generator, present))
        optimizer.step()
    assert_same(params, twin.x, tolerance=1e-10)


def test_implementations_agree_to_the_last_digits():
    loop, multi, default = parameters(), parameters(), parameters()
    values = train(IKFAD(loop, lr=0.1, foreach=False), loop)
    assert_same(train(IKFAD(multi, lr=0.1, foreach=True), multi), values, tolerance=1e-14)
    assert_identical(train(IKFAD(default, lr=0.1), default), multi)


@any_implementation
def test_a_complex_parameter_is_a_pair_of_real_ones(implementation):
    values = torch.randn(4, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    z, pair = torch.nn.Parameter(values), torch.nn.Parameter(torch.view_as_real(values).clone())
    ours, twin = (IKFAD([p], lr=0.1, mass=0.01, weight_decay=0.1, **implementation) for p in (z, pair))
    for lr in SCHEDULE:
        for optimizer, p in ((ours, z), (twin, pair)):
            set_lr(optimizer, lr)
            p.grad = p.detach() * 2.0
            optimizer.step()
    assert torch.equal(torch.view_as_real(z.detach()), pair.detach())
    assert ours.friction([z]) == twin.friction([pair]) > 0.0


def test_every_group_has_its_own_learning_rate_and_options():
    params = parameters()
    own = [{}, {"gamma": 3.0, "mass": 0.2}, {"weight_decay": 0.2, "alpha": 2.0}]
    twins = [ReferenceTwin([p], **options) for p, options in zip(params, own, strict=True)]
    optimizer = IKFAD([{"params": [p], **options} for p, options in zip(params, own, strict=True)], lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for lr in SCHEDULE:
        give_gradients(params, generator)
        for factor, group, twin in zip((1.0, 0.1, 2.0), optimizer.param_groups, twins, strict=True):
            group["lr"] = factor * lr
            twin.step(factor * lr, [p.grad for p in group["params"]])
        optimizer.step()
    assert_same(params, [twin.x[0] for twin in twins])


# --- Kinship with critical damping ----------------------------------------------------------------------------------


@any_implementation
@pytest.mark.parametrize("lr", [1e-4, 0.01, 0.1, 0.7])
def test_without_adaptive_friction_it_is_the_exponential_rule(implementation, lr):
    """With gamma 2 the velocity after a step is ``-h exp(-2 h)`` times that of SGD, whose momentum is ``exp(-2 h)``."""
    ours, theirs = parameters(), parameters()
    ikfad = IKFAD(ours, lr=lr, gamma=2.0, **FRICTIONLESS, **implementation)
    sgd = CritMomSGD(theirs, lr=lr, rule="exponential")
    h = math.sqrt(lr)
    for seed in range(6):
        assert_same(train(ikfad, ours, [lr], seed), train(sgd, theirs, [lr], seed))
        for p, q in zip(ours, theirs, strict=True):
            v = sgd.state[q]["momentum_buffer"]
            assert_same([ikfad.state[p]["velocity"]], [-h * math.exp(-2.0 * h) * v])


def test_where_the_learning_rate_changes_the_velocity_is_carried_over_not_the_sum_of_gradients():
    """``p = -h v`` is continuous, so SGD's ``v`` would be rescaled by the ratio of steps and damped by the last."""
    params = parameters()
    optimizer = IKFAD(params, lr=0.1, gamma=2.0, **FRICTIONLESS)
    x = [p.detach().clone() for p in params]
    v = [torch.zeros_like(p) for p in x]
    generator = torch.Generator().manual_seed(1)
    schedule = [lr for lr in SCHEDULE if lr > 0.0]
    for last, lr in itertools.pairwise([schedule[0], *schedule]):
        set_lr(optimizer, lr)
        gradients = give_gradients(params, generator)
        optimizer.step()
        for i, gradient in enumerate(gradients):
            v[i] = math.exp(-2.0 * math.sqrt(last)) * math.sqrt(last / lr) * v[i] + gradient
            x[i] = x[i] - lr * v[i]
    assert_same(params, x, tolerance=1e-10)


# --- Friction -------------------------------------------------------------------------------------------------------


def test_friction_is_the_mean_over_all_elements_of_the_parameters_asked_for():
    params = parameters()
    optimizer = IKFAD(params, lr=0.1)
    assert optimizer.friction(params) == 0.0
    twin = ReferenceTwin(params)
    generator = torch.Generator().manual_seed(1)
    for lr in SCHEDULE:
        set_lr(optimizer, lr)
        twin.step(lr, give_gradients(params, generator))
        optimizer.step()
    for chosen in ([0], [1], [2], [0, 2], [0, 1, 2]):
        expected = np.concatenate([twin.xi[i].ravel() for i in chosen]).mean()
        assert optimizer.friction(params[i] for i in chosen) == pytest.approx(expected, rel=1e-12)
    assert type(optimizer.friction(params)) is float


def test_a_parameter_that_never_moved_counts_as_without_friction():
    params = parameters()
    optimizer = IKFAD(params, lr=0.1)
    give_gradients(params, torch.Generator().manual_seed(1), (True, False, True))
    optimizer.step()
    moved = optimizer.friction([params[0], params[2]])
    assert optimizer.friction(params) == pytest.approx(moved * 7 / 11, rel=1e-12)
    assert optimizer.friction(params[1:2]) == 0.0


def test_friction_settles_where_kinetic_energy_and_decay_balance():
    """Under a constant force, ``xi = p^2 / (mass alpha)`` and ``(xi + gamma) p = -g``: small steps reach both."""
    x = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = IKFAD([x], lr=1e-6, gamma=0.5, alpha=2.0, mass=0.25)
    for _ in range(20_000):
        x.grad = torch.tensor(-3.0, dtype=torch.float64)
        optimizer.step()
    p, xi = optimizer.state[x]["velocity"].item(), optimizer.state[x]["friction"].item()
    assert xi == pytest.approx(p**2 / (0.25 * 2.0), rel=2e-2)
    assert (xi + 0.5) * p == pytest.approx(3.0, rel=2e-2)


def test_friction_of_nothing_is_refused():
    optimizer = IKFAD(parameters(), lr=0.1)
    with pytest.raises(ValueError, match="at least one parameter"):
        optimizer.friction([])


# --- Edges ----------------------------------------------------------------------------------------------------------


@any_implementation
def test_learning_rate_zero_changes_neither_parameters_nor_state(implementation):
    params = parameters()
    optimizer = IKFAD(params, lr=0.1, **implementation)
    before = [p.detach().clone() for p in params]
    assert_identical(train(optimizer, params, [0.0, 0.0]), before)
    for p in params:
        assert not optimizer.state[p]["velocity"].any()
        assert not optimizer.state[p]["friction"].any()
    train(optimizer, params)
    before, state = [p.detach().clone() for p in params], copy.deepcopy(optimizer.state_dict()["state"])
    assert_identical(train(optimizer, params, [0.0]), before)
    assert str(optimizer.state_dict()["state"]) == str(state)


@pytest.mark.parametrize(
    "options",
    [{"gamma": 0.0}, {"alpha": -1.0}, {"mass": math.nan}, {"mass": "heavy"}, {"foreach": "maybe"}],
    ids=lambda options: "+".join(options),
)
def test_an_option_that_cannot_be_is_named_with_what_could(options):
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name}={value!r} is not valid: expected"):
        IKFAD(parameters(), lr=0.1, **options)
    with pytest.raises(ValueError, match=f"{name}={value!r} is not valid: expected"):
        IKFAD([{"params": parameters(), **options}], lr=0.1)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_an_impossible_learning_rate_or_weight_decay_is_refused(value):
    with pytest.raises(ValueError, match="learning rate"):
        IKFAD(parameters(), lr=value)
    with pytest.raises(ValueError, match=r"[Ww]eight decay"):
        IKFAD(parameters(), lr=0.1, weight_decay=value)


@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf])
def test_a_learning_rate_that_becomes_impossible_stops_the_step_before_it_moves_anything(lr):
    params = parameters()
    optimizer = IKFAD([{"params": params[:1]}, {"params": params[1:]}], lr=0.1)
    before = train(optimizer, params)
    state = str(optimizer.state_dict()["state"])
    optimizer.param_groups[1]["lr"] = lr
    give_gradients(params, torch.Generator().manual_seed(7))
    with pytest.raises(ValueError, match="learning rate"):
        optimizer.step()
    assert_identical(params, before)
    assert str(optimizer.state_dict()["state"]) == state


@any_implementation
def test_a_sparse_gradient_is_refused_also_after_dense_ones(implementation):
    embedding = torch.nn.Embedding(4, 2)
    optimizer = IKFAD(embedding.parameters(), lr=0.1, **implementation)
    for _ in range(2):
        embedding.weight.grad = torch.ones(4, 2).to_sparse(1)
        with pytest.raises(RuntimeError, match="does not support sparse gradients"):
            optimizer.step()
        embedding.weight.grad = torch.ones(4, 2)
        optimizer.step()


def test_a_run_resumed_from_its_state_dict_continues_to_the_bit():
    params = parameters()
    optimizer = IKFAD(params, lr=0.1, gamma=2.0, mass=0.5)
    train(optimizer, params, SCHEDULE[:4])
    saved, values = through_a_file(optimizer.state_dict()), copy.deepcopy(params)
    resumed = IKFAD(values, lr=0.3)
    resumed.load_state_dict(saved)
    assert_identical(train(resumed, values, SCHEDULE[4:], 5), train(optimizer, params, SCHEDULE[4:], 5))


def test_state_dicts_hold_only_plain_values_beside_two_tensors_a_parameter():
    params = parameters()
    optimizer = IKFAD(params, lr=0.1)
    train(optimizer, params)
    saved = optimizer.state_dict()
    assert all(set(state) == {"velocity", "friction"} for state in saved["state"].values())
    for group in saved["param_groups"]:
        assert all(type(value) in (bool, int, float, str, list, type(None)) for value in group.values())


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))],
    ids=["deepcopy", "pickle"],
)
def test_copies_continue_to_the_bit(duplicate):
    params = parameters()
    optimizer = IKFAD(params, lr=0.1, alpha=2.0)
    train(optimizer, params, SCHEDULE[:4])
    twin, twin_params = duplicate((optimizer, params))
    assert_identical(train(twin, twin_params, SCHEDULE[4:], 5), train(optimizer, params, SCHEDULE[4:], 5))


def test_hooks_run_once_per_step():
    calls = collections.Counter()
    params = parameters()
    optimizer = IKFAD(params, lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: calls.update(["pre"]))
    optimizer.register_step_post_hook(lambda *_: calls.update(["post"]))
    train(optimizer, params, [0.1])
    assert calls == {"pre": 1, "post": 1}


def test_the_closure_is_evaluated_once_with_gradients_and_its_loss_returned():
    optimizer = IKFAD([torch.nn.Parameter(torch.tensor([2.0]))], lr=0.1)
    assert_a_closure_is_evaluated_once(optimizer)
