"""Claims about `CritMomSGD`: what a step computes, what it shows, and that it stays a good citizen of torch.optim."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from helpers import optimizer_runs
from helpers.optimizer_runs import (
    IMPLEMENTATIONS,
    any_implementation,
    assert_a_closure_is_evaluated_once,
    flat,
    give_gradients,
    parameters,
    set_lr,
    through_a_file,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.sgd import ReferenceTwin

from hf_critmom import CritMomSGD, critical_momentum
from hf_critmom.damping import RULES

pytestmark = pytest.mark.filterwarnings("ignore:.*momentum is clamped to 0", "ignore:.*scheduler cycles the momentum")

# Warmup from 0, up beyond what the linear rule can damp and back, a jump, and a decay to 0.
SCHEDULE = (0.0, 0.01, 0.1, 0.24, 0.3, 1.0, 0.26, 0.2, 0.05, 0.5, 0.001, 0.1, 0.0, 0.0, 0.02)


def train(optimizer, params, schedule=SCHEDULE, seed=1):
    return flat(optimizer_runs.train(optimizer, params, schedule, seed))


@any_implementation
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": True},
        {"weight_decay": 0.1},
        {"maximize": True},
        {"hold": 0.9},
        {"floor": 0.3},
        {"hold": 0.5, "floor": 0.1, "nesterov": True, "weight_decay": 0.01, "maximize": True},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_every_step_agrees_with_the_reference_twin(implementation, options):
    params = parameters()
    twin = ReferenceTwin(flat(params), **options)
    optimizer = CritMomSGD(params, lr=0.1, **options, **implementation)
    generator = torch.Generator().manual_seed(1)
    for lr in SCHEDULE:
        set_lr(optimizer, lr)
        give_gradients(params, generator)
        twin.step(lr, flat([p.grad for p in params]))
        optimizer.step()
        assert flat(params) == pytest.approx(twin.values, rel=1e-12, abs=1e-12)
        velocities = flat([optimizer.state[p]["momentum_buffer"] for p in params])
        assert velocities == pytest.approx(twin.velocities, rel=1e-12, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(schedule=st.lists(st.floats(0.0, 2.0), min_size=1, max_size=8), nesterov=st.booleans())
def test_any_schedule_agrees_with_the_reference_twin(schedule, nesterov):
    params = parameters()
    twin = ReferenceTwin(flat(params), nesterov=nesterov)
    optimizer = CritMomSGD(params, lr=0.1, nesterov=nesterov)
    generator = torch.Generator().manual_seed(1)
    for lr in schedule:
        set_lr(optimizer, lr)
        give_gradients(params, generator)
        twin.step(lr, flat([p.grad for p in params]))
        optimizer.step()
    assert flat(params) == pytest.approx(twin.values, rel=1e-9, abs=1e-9)


@any_implementation
def test_after_a_clamped_step_the_velocity_is_the_last_gradient(implementation):
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = CritMomSGD([p], lr=0.01, **implementation)
    for lr, gradient in ((0.01, 1.0), (0.01, 1.0), (0.5, 7.0)):
        set_lr(optimizer, lr)
        p.grad = torch.full((3,), gradient)
        optimizer.step()
    assert optimizer.param_groups[0]["momentum"] == 0.0
    assert optimizer.state[p]["momentum_buffer"].tolist() == [7.0, 7.0, 7.0]


@any_implementation
def test_learning_rate_zero_moves_nothing_and_keeps_the_velocity_growing(implementation):
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = CritMomSGD([p], lr=0.0, **implementation)
    for _ in range(3):
        p.grad = torch.ones(2)
        optimizer.step()
    assert p.tolist() == [1.0, 1.0]
    assert optimizer.state[p]["momentum_buffer"].tolist() == [3.0, 3.0]


def cosine(steps):
    return [0.05 * (1.0 + math.cos(math.pi * step / steps)) for step in range(steps)]


@pytest.mark.parametrize(
    ("before", "times"),
    [([0.0] * 100, 24), (cosine(1_000), 10), (cosine(10_000), 30)],
    ids=["unfrozen after 100 steps", "restarted after 1,000", "restarted after 10,000"],
)
def test_a_rise_from_nearly_zero_begins_with_a_long_step_which_hold_bounds(before, times):
    """The numbers of the guide: the first step at learning rate 0.1, of which a usual one is sqrt(0.1) / 2."""
    for hold, expected in ((None, times), (0.9, 3)):
        p = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        p.grad = torch.ones_like(p)
        optimizer = CritMomSGD([p], lr=0.1, hold=hold)
        for lr in before:
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
        position, optimizer.param_groups[0]["lr"] = p.item(), 0.1
        optimizer.step()
        assert round((position - p.item()) / (math.sqrt(0.1) / 2.0)) == expected


def test_it_is_torchs_sgd():
    assert issubclass(CritMomSGD, torch.optim.SGD)


@any_implementation
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("lr", [0.0025, 0.04, 0.2])
def test_at_a_constant_learning_rate_it_is_torchs_sgd_to_the_bit(implementation, nesterov, lr):
    options = {"weight_decay": 0.01, "nesterov": nesterov, **implementation}
    ours, theirs = parameters(), parameters()
    schedule = [lr] * 6
    damped = train(CritMomSGD(ours, lr=lr, **options), ours, schedule)
    assert damped == train(torch.optim.SGD(theirs, lr=lr, momentum=critical_momentum(lr), **options), theirs, schedule)


@any_implementation
def test_clamped_to_zero_it_is_torchs_plain_sgd_to_the_bit(implementation):
    ours, theirs = parameters(), parameters()
    plain = train(torch.optim.SGD(theirs, lr=0.3, momentum=0.0, **implementation), theirs, [0.3] * 4)
    assert train(CritMomSGD(ours, lr=0.3, **implementation), ours, [0.3] * 4) == plain


def test_implementations_agree_to_the_last_digits():
    results = []
    for implementation in IMPLEMENTATIONS.values():
        params = parameters()
        results.append(train(CritMomSGD(params, lr=0.1, **implementation), params))
    assert results[1] == pytest.approx(results[0], rel=1e-12)
    assert results[2] == pytest.approx(results[0], rel=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_momentum_follows_the_groups_own_learning_rate(rule):
    params = parameters()
    optimizer = CritMomSGD(params, lr=0.1, rule=rule, curvature=2.0)
    assert optimizer.param_groups[0]["momentum"] == critical_momentum(0.1, rule=rule, curvature=2.0)
    for lr in SCHEDULE:
        set_lr(optimizer, lr)
        give_gradients(params, torch.Generator().manual_seed(0))
        optimizer.step()
        assert optimizer.param_groups[0]["momentum"] == critical_momentum(lr, rule=rule, curvature=2.0)


def test_momentum_is_a_plain_float_even_where_the_learning_rate_is_a_tensor():
    params = parameters()
    optimizer = CritMomSGD(params, lr=torch.tensor(0.25**2, dtype=torch.float64))
    give_gradients(params, torch.Generator().manual_seed(0))
    optimizer.step()
    assert type(optimizer.param_groups[0]["momentum"]) is float
    assert optimizer.param_groups[0]["momentum"] == critical_momentum(0.25**2)


def test_every_group_has_its_own_learning_rate_rule_and_ceiling():
    first, second, third = parameters()
    optimizer = CritMomSGD(
        [
            {"params": [first]},
            {"params": [second], "lr": 0.0001, "hold": 0.9},
            {"params": [third], "lr": 0.5, "rule": "exponential"},
        ],
        lr=0.04,
        rule="exact",
    )
    late = torch.nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [late], "lr": 0.09, "curvature": 0.25})
    give_gradients([first, second, third, late], torch.Generator().manual_seed(0))
    optimizer.step()
    assert [group["momentum"] for group in optimizer.param_groups] == [
        critical_momentum(0.04, rule="exact"),
        0.9,
        critical_momentum(0.5, rule="exponential"),
        critical_momentum(0.09, rule="exact", curvature=0.25),
    ]


def test_groups_do_not_influence_each_other():
    ours = parameters()
    grouped = CritMomSGD([{"params": [p], "lr": 0.1 / (1 + index)} for index, p in enumerate(ours)], lr=1.0)
    alone = parameters()
    singles = [CritMomSGD([p], lr=0.1 / (1 + index)) for index, p in enumerate(alone)]
    for seed in range(4):
        give_gradients(ours, torch.Generator().manual_seed(seed))
        give_gradients(alone, torch.Generator().manual_seed(seed))
        grouped.step()
        for single in singles:
            single.step()
    assert flat(ours) == pytest.approx(flat(alone), rel=1e-14)


def test_the_hybrid_is_the_smaller_of_critical_and_hold():
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = CritMomSGD([p], lr=0.1, hold=0.9)
    for lr in SCHEDULE:
        set_lr(optimizer, lr)
        p.grad = torch.ones(1)
        optimizer.step()
        assert optimizer.param_groups[0]["momentum"] == min(critical_momentum(lr), 0.9)


@any_implementation
def test_parameters_without_a_gradient_are_left_alone(implementation):
    params = parameters()
    before = flat(params[1:])
    optimizer = CritMomSGD(params, lr=0.1, weight_decay=0.1, **implementation)
    for _ in range(2):
        params[0].grad = torch.ones_like(params[0])
        optimizer.step()
    assert flat(params[1:]) == before
    assert list(optimizer.state) == [params[0]]


@pytest.mark.parametrize("nesterov", [False, True])
def test_gradients_flow_through_differentiable_steps(nesterov):
    inputs = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(4)]

    def gradients_through(optimizer_cls, **options):
        p = inputs[0].clone()
        optimizer = optimizer_cls([p], lr=0.04, nesterov=nesterov, differentiable=True, **options)
        for gradient in inputs[1:]:
            p.grad = gradient**2
            optimizer.step()
        return torch.autograd.grad((p**3).sum(), [inputs[0], *inputs[2:]])  # torch detaches the first velocity

    ours = gradients_through(CritMomSGD)
    theirs = gradients_through(torch.optim.SGD, momentum=critical_momentum(0.04))
    for by_us, by_torch in zip(ours, theirs, strict=True):
        assert by_us.abs().min() > 0.0
        assert torch.equal(by_us, by_torch)


def test_the_closure_is_evaluated_once_with_gradients_and_its_loss_returned():
    p = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = CritMomSGD([p], lr=0.01)
    assert_a_closure_is_evaluated_once(optimizer)
    assert p.item() == pytest.approx(3.0 - 0.01 * 6.0)


def resumed(optimizer_cls, state_dict, values, **options):
    """A new optimizer of `optimizer_cls` on new parameters of the given values, with the state dict loaded."""
    params = [torch.nn.Parameter(value.clone()) for value in values]
    optimizer = optimizer_cls(params, **options)
    optimizer.load_state_dict(copy.deepcopy(state_dict))  # else both would share their velocities
    return optimizer, params


@pytest.mark.parametrize("cut", range(1, len(SCHEDULE)))
def test_a_run_resumed_from_its_state_dict_continues_to_the_bit(cut):
    options = {"rule": "exact", "hold": 0.8, "curvature": 2.0, "nesterov": True, "weight_decay": 0.01}
    params = parameters()
    optimizer = CritMomSGD(params, lr=0.1, **options)
    train(optimizer, params, SCHEDULE[:cut])
    state_dict = through_a_file(optimizer.state_dict())
    again, copies = resumed(CritMomSGD, state_dict, params, lr=9.0)  # the saved options count, not the constructor's
    assert train(again, copies, SCHEDULE[cut:], seed=2) == train(optimizer, params, SCHEDULE[cut:], seed=2)
    assert again.param_groups[0]["rule"] == "exact"


def test_state_dicts_hold_only_plain_values_beside_the_velocities():
    params = parameters()
    optimizer = CritMomSGD(params, lr=0.1, hold=0.9)
    train(optimizer, params)
    for group in optimizer.state_dict()["param_groups"]:
        for name, value in group.items():
            assert name == "params" or type(value) in (bool, int, float, str, type(None)), name
    for state in optimizer.state_dict()["state"].values():
        assert set(state) == {"momentum_buffer"}


def test_it_continues_a_run_of_torchs_sgd():
    params = parameters()
    plain = torch.optim.SGD(params, lr=0.1, momentum=0.9)
    train(plain, params, [0.1] * 3)
    ours, values = resumed(CritMomSGD, plain.state_dict(), params, lr=0.3, rule="exact", hold=0.7)
    twin = ReferenceTwin([])  # the options that a plain state dict lacks are the constructor's
    twin.values, twin.velocities = flat(params), flat([plain.state[p]["momentum_buffer"] for p in params])
    give_gradients(values, torch.Generator().manual_seed(2))
    ours.step()
    assert ours.param_groups[0]["lr"] == 0.1
    assert ours.param_groups[0]["momentum"] == critical_momentum(0.1, rule="exact")
    momentum = critical_momentum(0.1, rule="exact")
    for index, gradient in enumerate(flat([p.grad for p in values])):
        twin.values[index] -= 0.1 * (momentum * twin.velocities[index] + gradient)
    assert flat(values) == pytest.approx(twin.values, rel=1e-12)


def test_torchs_sgd_continues_a_run_of_ours():
    params = parameters()
    optimizer = CritMomSGD(params, lr=0.1)
    train(optimizer, params, [0.01, 0.04])
    plain, values = resumed(torch.optim.SGD, optimizer.state_dict(), params, lr=0.3)
    assert plain.param_groups[0]["momentum"] == critical_momentum(0.04)
    # The learning rate stays, so both make the same step.
    assert train(plain, values, [0.04], seed=2) == train(optimizer, params, [0.04], seed=2)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"]
)
def test_copies_keep_options_and_state(duplicate):
    params = parameters()
    optimizer = CritMomSGD(
        [{"params": params[:2]}, {"params": params[2:], "hold": 0.5}], lr=0.1, rule="exponential", nesterov=True
    )
    train(optimizer, params, SCHEDULE[:4])
    twin, copies = duplicate((optimizer, params))
    assert twin.param_groups[1]["hold"] == 0.5
    assert train(twin, copies, SCHEDULE[4:], seed=2) == train(optimizer, params, SCHEDULE[4:], seed=2)
    twin.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.01})
    assert twin.param_groups[2]["momentum"] == critical_momentum(0.01, rule="exponential")


def test_a_copy_of_a_plain_rule_may_be_clamped_too():
    params = parameters()
    optimizer = CritMomSGD(params, lr=0.1)
    twin, copies = pickle.loads(pickle.dumps((optimizer, params)))
    assert train(twin, copies) == train(optimizer, params)


SCHEDULERS = {
    "LambdaLR": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 5),
    "CosineAnnealingLR": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8),
    "OneCycleLR": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=9),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_momentum_follows_torchs_schedulers(scheduler):
    params = parameters()
    twin = ReferenceTwin(flat(params))
    optimizer = CritMomSGD(params, lr=0.1)
    schedule = scheduler(optimizer)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(8):
        lr = optimizer.param_groups[0]["lr"]
        give_gradients(params, generator)
        twin.step(lr, flat([p.grad for p in params]))
        optimizer.step()
        assert optimizer.param_groups[0]["momentum"] == critical_momentum(lr)  # OneCycleLR had written its own there
        schedule.step()
        seen.add(lr)
    assert len(seen) > 4
    assert flat(params) == pytest.approx(twin.values, rel=1e-12)


def test_on_a_quadratic_the_exact_rule_neither_overshoots_nor_dawdles():
    lr, curvature = 0.01, 4.0
    p = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = CritMomSGD([p], lr=lr, rule="exact", curvature=curvature)
    path = []
    for _ in range(60):
        p.grad = curvature * p.detach()
        optimizer.step()
        path.append(p.item())
    assert all(later < earlier for earlier, later in itertools.pairwise(path))
    root = 1.0 - math.sqrt(lr * curvature)  # the double root: |x_n| is (a + b n) root^n
    steps = np.arange(1, 61)
    fit = np.array(path) / root**steps
    assert np.diff(fit) == pytest.approx(fit[1] - fit[0], rel=1e-6)


BAD_OPTIONS = [
    ({"rule": "quadratic"}, ["rule", "quadratic", *RULES]),
    ({"rule": None}, ["rule", "None", *RULES]),
    ({"hold": 1.0}, ["hold", "1.0", "between 0 and 1"]),
    ({"hold": -0.1}, ["hold", "-0.1", "between 0 and 1"]),
    ({"hold": math.nan}, ["hold", "nan", "between 0 and 1"]),
    ({"hold": "much"}, ["hold", "much", "between 0 and 1"]),
    ({"floor": 1.0}, ["floor", "1.0", "[0, 1)"]),
    ({"floor": 0.6, "hold": 0.5}, ["floor=0.6", "hold=0.5"]),
    ({"foreach": True, "fused": True}, ["CritMomSGD cannot be built", "foreach", "fused"]),
    ({"curvature": 0.0}, ["curvature", "0.0", "positive"]),
    ({"curvature": -1.0}, ["curvature", "-1.0", "positive"]),
    ({"curvature": math.inf}, ["curvature", "inf", "positive"]),
    ({"weight_decay": -0.1}, ["weight_decay", "-0.1"]),
    ({"lr": -0.1}, ["learning rate", "-0.1"]),
    ({"lr": math.nan}, ["learning rate", "nan"]),
    ({"lr": math.inf}, ["learning rate", "inf"]),
]


@pytest.mark.parametrize(("options", "named"), BAD_OPTIONS, ids=[str(options) for options, _ in BAD_OPTIONS])
def test_an_option_that_cannot_be_is_named_with_what_could(options, named):
    with pytest.raises(ValueError) as error:
        CritMomSGD(parameters(), **{"lr": 0.1, **options})
    for word in named:
        assert word in str(error.value)


def test_a_groups_own_option_is_checked_like_the_constructors():
    optimizer = CritMomSGD(parameters(), lr=0.1)
    with pytest.raises(ValueError, match="quadratic"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "rule": "quadratic"})


@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf])
def test_a_learning_rate_that_becomes_impossible_stops_the_step_before_it_moves_anything(lr):
    params = parameters()
    optimizer = CritMomSGD(params, lr=0.1)
    before = flat(params)
    give_gradients(params, torch.Generator().manual_seed(0))
    set_lr(optimizer, lr)
    with pytest.raises(ValueError, match="learning rate") as error:
        optimizer.step()
    assert str(lr) in str(error.value)
    assert flat(params) == before
