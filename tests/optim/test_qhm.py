"""Claims about `CritMomQHM`: what a step computes, that its damping is critical, and its manners as an optimizer."""

import copy
import math
import pickle
import warnings

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
from reference.qhm import ReferenceTwin

from hf_critmom import CritMomQHM, critmom_optimizer
from hf_critmom.damping import critical_nu
from hf_critmom.optim.options import DEFAULT_QHM_CURVATURE
from hf_critmom.optim.qhm import set_measured_curvature

# Warmup from 0, weights from 0 to 1 and back, a jump, and a decay to 0.
SCHEDULE = (0.0, 0.0005, 0.01, 0.1, 0.3, 1.0, 0.26, 0.2, 0.05, 0.5, 0.001, 0.1, 0.0, 0.0, 0.02)


def train(optimizer, params, schedule=SCHEDULE, seed=1):
    return flat(optimizer_runs.train(optimizer, params, schedule, seed))


# --- A step ---------------------------------------------------------------------------------------------------------

OPTIONS = [
    {},
    {"curvature": 3.0},
    {"momentum": 0.5, "curvature": 50.0},
    {"momentum": 0.0},
    {"nu": 0.7},
    {"nu": 0.0},
    {"nu": 1.0},
    {"weight_decay": 0.1},
    {"weight_decay": 5.0, "nu": 0.2},
    {"maximize": True},
    {"momentum": 0.8, "curvature": 2.0, "weight_decay": 0.01, "maximize": True},
]


@any_implementation
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
def test_every_step_agrees_with_the_reference_twin(implementation, options):
    params = parameters()
    twin = ReferenceTwin(flat(params), **options)
    optimizer = CritMomQHM(params, lr=0.1, **options, **implementation)
    generator = torch.Generator().manual_seed(1)
    for lr in SCHEDULE:
        set_lr(optimizer, lr)
        give_gradients(params, generator)
        gradients = flat([p.grad for p in params])
        twin.step(lr, gradients)
        optimizer.step()
        assert flat(params) == pytest.approx(twin.values, rel=1e-11, abs=1e-11)
        velocities = flat([optimizer.state[p]["momentum_buffer"] for p in params])
        assert velocities == pytest.approx(twin.velocities, rel=1e-11, abs=1e-11)
        assert optimizer.param_groups[0]["nu"] == pytest.approx(twin.weight(lr), abs=1e-12)
        assert flat([p.grad for p in params]) == gradients, "the gradients are the caller's"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("foreach", [False, None, True])
def test_in_low_precision_a_step_is_rounded_and_nothing_worse(dtype, foreach):
    params = parameters(dtype=dtype)
    twin = ReferenceTwin(flat(params), weight_decay=0.01)
    optimizer = CritMomQHM(params, lr=0.05, weight_decay=0.01, foreach=foreach)
    give_gradients(params, torch.Generator().manual_seed(1))
    twin.step(0.05, flat([p.grad for p in params]))
    optimizer.step()
    assert flat(params) == pytest.approx(twin.values, rel=2 * torch.finfo(dtype).eps, abs=2 * torch.finfo(dtype).eps)


def test_implementations_agree_to_the_last_digits():
    results = []
    for implementation in IMPLEMENTATIONS.values():
        params = parameters()
        results.append(train(CritMomQHM(params, lr=0.1, weight_decay=0.01, **implementation), params))
    assert results[1] == pytest.approx(results[0], rel=1e-11)
    assert results[2] == pytest.approx(results[0], rel=1e-11)


@any_implementation
@pytest.mark.parametrize(
    ("nu", "sgd"),
    [(1.0, {"momentum": 0.9}), (0.9, {"momentum": 0.9, "nesterov": True}), (0.0, {"momentum": 0.0})],
    ids=["heavy ball", "nesterov", "plain"],
)
def test_it_contains_torchs_heavy_ball_nesterov_and_plain_sgd(implementation, nu, sgd):
    ours, theirs = parameters(), parameters()
    mean_step = 10.0 if sgd["momentum"] == 0.0 else 1.0
    plain = torch.optim.SGD(theirs, lr=0.1, weight_decay=0.01, **sgd, foreach=False)
    found = train(CritMomQHM(ours, lr=0.1, nu=nu, weight_decay=0.01, **implementation), ours, [0.004] * 6)
    assert found == pytest.approx(train(plain, theirs, [0.004 * mean_step] * 6), rel=1e-12)


def test_the_weight_does_not_change_the_mean_step():
    """Under a constant gradient every weight moves the parameters alike in the end: by lr / (1 - mu)."""
    for nu in (0.0, 0.3, 0.7, 1.0):
        p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = CritMomQHM([p], lr=0.01, nu=nu)
        path = []
        for _ in range(300):
            p.grad = torch.ones_like(p)
            optimizer.step()
            path.append(p.item())
        assert path[-2] - path[-1] == pytest.approx(0.1, rel=1e-9)


@any_implementation
def test_learning_rate_zero_changes_no_parameter(implementation):
    """`torch.distributed.checkpoint` takes such a step to make the state."""
    params = parameters()
    before = flat(params)
    optimizer = CritMomQHM(params, lr=torch.tensor(0.0), weight_decay=0.1, curvature="auto", **implementation)
    for p in params:
        p.grad = torch.zeros_like(p)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    assert flat(params) == before
    assert optimizer.param_groups[0]["nu"] == 0.0
    give_gradients(params, torch.Generator().manual_seed(1))
    set_lr(optimizer, 0.0)
    optimizer.step()
    assert flat(params) == before


@any_implementation
def test_parameters_without_a_gradient_are_left_alone(implementation):
    params = parameters()
    before = flat(params[1:])
    optimizer = CritMomQHM(params, lr=0.1, weight_decay=0.1, **implementation)
    for _ in range(2):
        params[0].grad = torch.ones_like(params[0])
        optimizer.step()
    assert flat(params[1:]) == before
    assert list(optimizer.state) == [params[0]]


def test_several_types_and_sparse_gradients_share_a_group():
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(6, 3, sparse=True, dtype=torch.float64)
    wide, narrow = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    twin = ReferenceTwin(flat([embedding.weight]))
    optimizer = CritMomQHM([embedding.weight, wide, narrow], lr=0.05)
    for tokens in ([0, 1], [1, 1, 2], [5]):
        optimizer.zero_grad()
        loss = embedding(torch.tensor(tokens)).square().sum() + wide.square().sum() + narrow.square().sum()
        loss.backward()
        assert embedding.weight.grad.is_sparse
        twin.step(0.05, embedding.weight.grad.to_dense().reshape(-1).tolist())
        optimizer.step()
    assert flat([embedding.weight]) == pytest.approx(twin.values, rel=1e-12)
    assert wide.tolist() == pytest.approx(narrow.float().tolist(), rel=0.02)
    assert wide[0] < 1.0


@any_implementation
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"nu": 1.0}], ids=str)
def test_tensors_that_lie_in_memory_in_another_order_take_the_same_steps(implementation, options):
    torch.manual_seed(0)
    start, gradients = torch.randn(3, 4), torch.randn(5, 3, 4)
    layouts = {
        "contiguous": start.clone(),
        "transposed": start.T.contiguous().T,
        "every second column": torch.zeros(3, 8)[:, ::2].copy_(start),
    }
    found = {}
    for name, tensor in layouts.items():
        p = torch.nn.Parameter(tensor)
        optimizer = CritMomQHM([p], lr=0.1, curvature=50.0, **options, **implementation)
        for gradient in gradients:
            p.grad = gradient.clone()
            optimizer.step()
        found[name] = flat([p])
    for name in layouts:
        assert found[name] == pytest.approx(found["contiguous"], rel=1e-5, abs=1e-6), name


def test_the_closure_is_evaluated_once_with_gradients_and_its_loss_returned():
    p = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = CritMomQHM([p], lr=0.001)
    assert_a_closure_is_evaluated_once(optimizer)
    assert p.item() == pytest.approx(3.0 - 0.01 * 6.0)


# --- Groups, state, schedulers --------------------------------------------------------------------------------------


def test_every_group_has_its_own_learning_rate_momentum_curvature_and_weight():
    first, second, third = parameters()
    optimizer = CritMomQHM(
        [
            {"params": [first]},
            {"params": [second], "lr": 0.05, "momentum": 0.8, "curvature": 3.0},
            {"params": [third], "nu": 0.7},
        ],
        lr=0.1,
    )
    late = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer.add_param_group({"params": [late], "lr": 0.09, "curvature": 25.0})
    give_gradients([first, second, third, late], torch.Generator().manual_seed(0))
    optimizer.step()
    assert [group["nu"] for group in optimizer.param_groups] == [
        critical_nu(0.9, 0.1, curvature=DEFAULT_QHM_CURVATURE),
        critical_nu(0.8, 0.05, curvature=3.0),
        0.7,
        critical_nu(0.9, 0.09, curvature=25.0),
    ]
    alone = parameters()[1]
    alone.grad = second.grad
    CritMomQHM([alone], lr=0.05, momentum=0.8, curvature=3.0).step()
    assert flat([alone]) == flat([second])


def test_a_group_that_is_added_inherits_what_it_does_not_name():
    optimizer = CritMomQHM(parameters(), lr=0.1, curvature=4.0, nu=0.3)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    assert optimizer.param_groups[1]["curvature"] == 4.0
    assert optimizer.param_groups[1]["fixed_nu"] == optimizer.param_groups[1]["nu"] == 0.3


def test_the_weight_follows_schedulers_and_cycled_momentum():
    params = parameters()
    optimizer = CritMomQHM(params, lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=9)
    seen = set()
    for _ in range(8):
        group = optimizer.param_groups[0]
        give_gradients(params, torch.Generator().manual_seed(0))
        optimizer.step()
        assert group["nu"] == critical_nu(group["momentum"], group["lr"], curvature=10.0)
        seen.add((group["momentum"], group["nu"]))
        scheduler.step()
    assert len(seen) > 4


def resumed(optimizer_cls, state_dict, values, **options):
    params = [torch.nn.Parameter(value.detach().clone()) for value in values]
    optimizer = optimizer_cls(params, **options)
    optimizer.load_state_dict(copy.deepcopy(state_dict))
    return optimizer, params


@pytest.mark.parametrize("options", [{"curvature": 3.0, "weight_decay": 0.01}, {"nu": 0.7}, {"curvature": "auto"}])
@pytest.mark.parametrize("cut", [1, 4, 9])
def test_a_run_resumed_from_its_state_dict_continues_to_the_bit(cut, options):
    params = parameters()
    optimizer = CritMomQHM(params, lr=0.1, **options)
    set_measured_curvature(optimizer.param_groups, 7.0)
    train(optimizer, params, SCHEDULE[:cut])
    state_dict = through_a_file(optimizer.state_dict())
    again, copies = resumed(CritMomQHM, state_dict, params, lr=9.0)  # the saved options count, not the constructor's
    assert train(again, copies, SCHEDULE[cut:], seed=2) == train(optimizer, params, SCHEDULE[cut:], seed=2)
    assert again.param_groups[0]["curvature"] == (7.0 if "auto" in options.values() else options.get("curvature", 10.0))


def test_state_dicts_hold_only_plain_values_beside_the_velocities():
    params = parameters()
    optimizer = CritMomQHM(params, lr=0.1, curvature="auto")
    train(optimizer, params, [0.0])
    for group in optimizer.state_dict()["param_groups"]:
        for name, value in group.items():
            assert name == "params" or type(value) in (bool, int, float, str, type(None)), name
    for state in optimizer.state_dict()["state"].values():
        assert set(state) == {"momentum_buffer"}


def test_it_continues_a_run_of_torchs_sgd_and_torchs_sgd_one_of_its_own():
    params = parameters()
    plain = torch.optim.SGD(params, lr=0.02, momentum=0.8)
    train(plain, params, [0.02] * 3)
    with_its_default, _ = resumed(CritMomQHM, plain.state_dict(), params, lr=0.3)
    assert with_its_default.param_groups[0]["momentum"] == 0.9, "another optimizer continues with options of its own"
    ours, values = resumed(CritMomQHM, plain.state_dict(), params, lr=0.3, momentum=0.8, curvature=30.0)
    assert ours.param_groups[0]["lr"] == 0.02
    twin = ReferenceTwin(flat(params), momentum=0.8, curvature=30.0)
    twin.velocities = flat([plain.state[p]["momentum_buffer"] for p in params])
    give_gradients(values, torch.Generator().manual_seed(2))
    twin.step(0.02, flat([p.grad for p in values]))
    ours.step()
    assert flat(values) == pytest.approx(twin.values, rel=1e-12)

    again, copies = resumed(torch.optim.SGD, ours.state_dict(), values, lr=9.0)
    set_lr(ours, 0.02)
    ours.param_groups[0]["fixed_nu"] = 1.0
    assert train(again, copies, [0.02], seed=3) == pytest.approx(train(ours, values, [0.02], seed=3), rel=1e-12)


def test_it_takes_over_the_state_of_sgd_without_momentum():
    params = parameters()
    plain = torch.optim.SGD(params, lr=0.02)
    train(plain, params, [0.02])
    ours, values = resumed(CritMomQHM, plain.state_dict(), params, lr=0.3)
    train(ours, values, [0.02])
    assert all(p.isfinite().all() for p in values)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"]
)
def test_copies_keep_options_and_state(duplicate):
    params = parameters()
    optimizer = CritMomQHM([{"params": params[:2]}, {"params": params[2:], "nu": 0.5}], lr=0.1, curvature=3.0)
    train(optimizer, params, SCHEDULE[:4])
    twin, copies = duplicate((optimizer, params))
    assert train(twin, copies, SCHEDULE[4:], seed=2) == train(optimizer, params, SCHEDULE[4:], seed=2)
    twin.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.2})
    assert twin.param_groups[2]["nu"] == critical_nu(0.9, 0.2, curvature=3.0)


# --- Options --------------------------------------------------------------------------------------------------------

BAD_OPTIONS = [
    ({"momentum": 1.0}, ["momentum", "1.0", "[0, 1)"]),
    ({"momentum": -0.1}, ["momentum", "-0.1"]),
    ({"momentum": math.nan}, ["momentum", "nan"]),
    ({"nu": 1.5}, ["nu", "1.5", "[0, 1]"]),
    ({"nu": -0.5}, ["nu", "-0.5"]),
    ({"nu": math.nan}, ["nu", "nan"]),
    ({"nu": "much"}, ["nu", "much"]),
    ({"curvature": 0.0}, ["curvature", "0.0", "positive", "auto"]),
    ({"curvature": -1.0}, ["curvature", "-1.0", "positive"]),
    ({"curvature": math.inf}, ["curvature", "inf", "positive"]),
    ({"curvature": "much"}, ["curvature", "much", "auto"]),
    ({"weight_decay": -0.1}, ["weight_decay", "-0.1"]),
    ({"lr": -0.1}, ["learning rate", "-0.1"]),
    ({"lr": math.nan}, ["learning rate", "nan"]),
    ({"lr": math.inf}, ["learning rate", "inf"]),
]


@pytest.mark.parametrize(("options", "named"), BAD_OPTIONS, ids=[str(options) for options, _ in BAD_OPTIONS])
def test_an_option_that_cannot_be_is_named_with_what_could(options, named):
    with pytest.raises(ValueError) as error:
        CritMomQHM(parameters(), **{"lr": 0.1, **options})
    for word in named:
        assert word in str(error.value)


@pytest.mark.parametrize("options", [{"nu": 2.0}, {"curvature": -3.0}, {"momentum": 1.0}])
def test_a_groups_own_option_is_checked_like_the_constructors(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        CritMomQHM([{"params": parameters(), **options}], lr=0.1)
    optimizer = CritMomQHM(parameters(), lr=0.1)
    with pytest.raises(ValueError, match=name):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], **options})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", ["nesterov", "dampening", "differentiable"])
def test_options_of_torchs_sgd_that_the_step_does_not_have_are_refused_in_a_group(name):
    group = {"params": parameters(), name: True}
    with pytest.raises(ValueError, match=f"{name}=True, which CritMomQHM does not have"):
        CritMomQHM([group], lr=0.1)
    assert CritMomQHM([{**group, name: False}], lr=0.1).param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf])
def test_a_learning_rate_that_becomes_impossible_stops_the_step_before_it_moves_anything(lr):
    params = parameters()
    optimizer = CritMomQHM([{"params": params[:1]}, {"params": params[1:]}], lr=0.1)
    before = flat(params)
    give_gradients(params, torch.Generator().manual_seed(0))
    optimizer.param_groups[1]["lr"] = lr
    with pytest.raises(ValueError, match="learning rate") as error:
        optimizer.step()
    assert str(lr) in str(error.value)
    assert flat(params) == before


def test_options_are_given_as_text_to_the_trainer(tmp_path):
    from transformers import TrainingArguments

    args = TrainingArguments(str(tmp_path), optim_args="curvature=auto,momentum=0.8", learning_rate=0.2, use_cpu=True)
    cls, kwargs = critmom_optimizer(args, name="critmom_qhm")
    assert cls is CritMomQHM and kwargs == {"lr": 0.2, "curvature": "auto", "momentum": 0.8}
    with pytest.raises(ValueError, match="a positive number, or auto"):
        critmom_optimizer(args, name="critmom_qhm", curvature="none")
    args.optim_args = None
    with pytest.raises(ValueError, match="a positive number"):
        critmom_optimizer(args, name="critmom", curvature="auto")
