"""Claims about `torch.compile`: a changing learning rate recompiles nothing, and changes nothing."""

import math
import warnings

import pytest
import torch
import torch._dynamo
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from hf_critmom import IKFAD, CritMomAdamW, CritMomQHM, CritMomSGD

STEPS = 50
OPTIMIZERS = {
    "sgd": lambda params: CritMomSGD(params, lr=0.1, weight_decay=0.01),
    "sgd-exponential": lambda params: CritMomSGD(params, lr=0.1, rule="exponential"),
    "sgd-foreach": lambda params: CritMomSGD(params, lr=0.1, foreach=True, hold=0.9),
    "sgd-fused": lambda params: CritMomSGD(params, lr=0.1, fused=True),
    "adamw": lambda params: CritMomAdamW(params, lr=0.1),
    "adamw-foreach": lambda params: CritMomAdamW(params, lr=0.1, foreach=True),
    "adamw-fused": lambda params: CritMomAdamW(params, lr=0.1, fused=True),
    "qhm": lambda params: CritMomQHM(params, lr=0.1),
    "ikfad": lambda params: IKFAD(params, lr=0.1),
}
any_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
pytestmark = pytest.mark.filterwarnings("ignore:.*momentum is clamped to 0", "ignore:torch.compile leaves the step")


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def learning_rates():
    """Warmup from 0, then a cosine to 0 from where the linear rule is clamped: each value occurs once, but for 0."""
    return [0.0, 0.1, 0.2, *(0.15 * (1.0 + math.cos(math.pi * step / (STEPS - 4))) for step in range(STEPS - 3))]


def train(make, compiled):
    """Parameters after the steps; ``compiled`` turns the optimizer into the function that makes a step."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (5,))]
    optimizer = make(params)
    step = compiled(optimizer)
    for lr in learning_rates():
        optimizer.param_groups[0]["lr"] = lr
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        step()
    return [p.detach() for p in params]


def assert_identical(ours, theirs):
    assert all(p.isfinite().all() for p in ours)
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


@any_optimizer
@pytest.mark.parametrize("how", ["the method", "a function that calls it"])
def test_a_compiled_step_is_never_recompiled_and_equals_the_plain_one(make, how):
    counter = CompileCounter()

    def compiled(optimizer):
        return torch.compile(optimizer.step if how == "the method" else lambda: optimizer.step(), backend=counter)

    with torch._dynamo.config.patch(error_on_recompile=True):
        steps_compiled = train(make, compiled)
    assert counter.frame_count == 0, "no graph may hold a number that follows the learning rate"
    assert_identical(steps_compiled, train(make, lambda optimizer: optimizer.step))


@any_optimizer
def test_so_it_is_with_the_default_backend(make):
    with torch._dynamo.config.patch(error_on_recompile=True):
        steps_compiled = train(make, lambda optimizer: torch.compile(lambda: optimizer.step()))
    assert_identical(steps_compiled, train(make, lambda optimizer: optimizer.step))


@any_optimizer
def test_a_compiled_training_step_compiles_the_model_and_leaves_the_optimizer(make):
    def train_model(compiled):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        optimizer = make(model.parameters())

        def training_step(inputs):
            loss = model(inputs).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        step = torch.compile(training_step, backend=counter) if compiled else training_step
        for lr in learning_rates():
            optimizer.param_groups[0]["lr"] = lr
            step(torch.randn(8, 3))
        return [p.detach() for p in model.parameters()]

    counter = CompileCounter()
    with torch._dynamo.config.patch(error_on_recompile=True):
        after = train_model(compiled=True)
    assert 1 <= counter.frame_count <= 3
    assert_identical(after, train_model(compiled=False))


def test_hooks_still_run_once_per_step():
    calls = []

    def compiled(optimizer):
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
        optimizer.register_step_post_hook(lambda *_: calls.append("post"))
        return torch.compile(lambda: optimizer.step(), backend="eager")

    train(OPTIMIZERS["sgd"], compiled)
    assert calls == ["pre", "post"] * STEPS


@pytest.mark.parametrize("name", ["sgd", "adamw", "ikfad"])
def test_compiling_a_step_is_answered_by_one_sentence_and_an_uncompiled_one_by_none(name):
    def said(compiled):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            train(OPTIMIZERS[name], compiled)
        return [str(w.message) for w in caught if "torch.compile" in str(w.message)]

    assert said(lambda optimizer: optimizer.step) == []
    (sentence,) = said(lambda optimizer: torch.compile(lambda: optimizer.step(), backend="eager"))
    assert "follow the learning rate" in sentence
    assert "fused=True" in sentence
