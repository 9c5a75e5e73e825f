"""A measurement of curvature leaves no trace, takes little memory, and is the same in several processes."""

import copy
import math
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import curvature_programs as programs
from helpers.curvature_programs import cross_entropy, exact_hessian, examples, perceptron
from helpers.curved_networks import network
from torch import nn

from hf_critmom.curvature import CurvatureError, measure_curvature

# --- No trace -------------------------------------------------------------------------------------------------------


def state_of(model):
    """Everything that a measurement might change."""
    return {
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "trainable": [p.requires_grad for p in model.parameters()],
        "versions": [tensor._version for tensor in (*model.parameters(), *model.buffers())],
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].copy(),
    }


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second["tensors"][name]) for name, value in first["tensors"].items())
    for one, other in zip(first["gradients"], second["gradients"], strict=True):
        assert (one is None) == (other is None) and (one is None or torch.equal(one, other))
    assert torch.equal(first["torch"], second["torch"])
    assert (first["numpy"] == second["numpy"]).all()
    for name in ("modes", "trainable", "versions", "python"):
        assert first[name] == second[name], name


@pytest.mark.parametrize("method", ["double_backward", "central_differences"])
@pytest.mark.parametrize("mode", [True, False])
def test_measuring_leaves_parameters_gradients_buffers_modes_and_generators_as_they_are(method, mode):
    model, batch = network("convolutions", 2)
    model.train(mode)
    model[1].train(not mode)
    cross_entropy(model, batch).backward()
    model[1].weight.grad = None
    model[4].requires_grad_(False)
    before = state_of(model)
    groups = {"last": model[9].parameters()}
    measure_curvature(model, [batch], cross_entropy, groups=groups, method=method, max_iterations=10)
    assert_same(before, state_of(model))


def test_an_error_leaves_no_trace_either():
    model, batch = network("convolutions", 2)
    model.train()
    before = state_of(model)
    with pytest.raises(CurvatureError):
        measure_curvature(model, [batch], lambda network, rows: cross_entropy(network, rows) * math.nan)
    assert_same(before, state_of(model))


def test_a_model_that_draws_random_numbers_is_the_same_function_each_time():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = perceptron()

        def forward(self, x):
            return self.inner(x + torch.randn_like(x) + random.random() + np.random.rand())

    found = [measure_curvature(Noisy(), [examples(10)], cross_entropy) for _ in range(2)]
    assert found[0].top == found[1].top


def test_what_modules_hold_as_plain_attributes_is_as_before_and_their_generators_draw_the_same():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.generator = perceptron(), torch.Generator().manual_seed(3)
            self.calls, self.cache, self.mean = 0, None, torch.zeros(10)

        def forward(self, x):
            self.calls += 1
            self.cache = x.detach()
            self.mean.lerp_(x.mean(0), 0.1)
            return self.inner(x + 0.1 * torch.randn(x.shape, generator=self.generator))

    model = Counting()
    state = model.generator.get_state()
    found = [measure_curvature(model, [examples(10)], cross_entropy, method="central_differences") for _ in range(2)]
    assert found[0].top == found[1].top and found[0].top.converged
    assert (model.calls, model.cache) == (0, None)
    assert not model.mean.any()
    assert torch.equal(model.generator.get_state(), state)


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState, random.Random])
@pytest.mark.parametrize("place", ["model", "loss"])
def test_generators_of_model_and_loss_draw_the_same_each_time_and_are_left_where_they_were(make, place):
    class Noisy(nn.Module):
        def __init__(self, generator):
            super().__init__()
            self.inner, self.generator = perceptron(), generator

        def forward(self, x):
            return self.inner(x if self.generator is None else x + self.generator.normal(*MEAN_AND_SCALE))

    def loss(network, batch):
        return cross_entropy(network, {**batch, "x": batch["x"] + generator.normal(*MEAN_AND_SCALE)})

    generator = make(3)
    if make is random.Random:
        generator.normal = generator.gauss
    model = Noisy(generator if place == "model" else None)
    state = copy.deepcopy(generator)
    halves = [{name: rows[part] for name, rows in examples(10).items()} for part in (slice(32), slice(32, 64))]
    found = [measure_curvature(model, halves, loss if place == "loss" else cross_entropy) for _ in range(2)]
    assert found[0].top == found[1].top and found[0].top.converged
    assert generator.normal(0.0, 1.0) == (state.gauss if make is random.Random else state.normal)(0.0, 1.0)


MEAN_AND_SCALE = (0.0, 0.5)


@pytest.mark.parametrize("of_all", ["", "_all"], ids=["one device", "several"])
def test_the_generator_of_the_accelerator_in_use_is_left_where_it_was(of_all, monkeypatch):
    drawn = [7]
    fake = SimpleNamespace(**{f"get_rng_state{of_all}": lambda: drawn[0], f"set_rng_state{of_all}": drawn.append})
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("mps"))
    monkeypatch.setattr(torch, "get_device_module", lambda device: fake)
    measure_curvature(perceptron(), [examples(10)], cross_entropy)
    assert drawn == [7, 7]


def test_what_a_module_caches_stays_together_with_what_it_is_known_by():
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.length, self.cache = perceptron(), 0, []

        def forward(self, x):
            if len(x) != self.length:
                self.length, self.cache = len(x), [torch.full((len(x), 1), 0.1)]
                self.first = self.cache[0]
            return self.inner(x + self.cache[0])

    model = Caching()
    measure_curvature(model, [{name: rows[:8] for name, rows in examples(10).items()}], cross_entropy)
    assert (model.length, model.cache) == (0, []) and not hasattr(model, "first")
    model(examples(10)["x"])


class KeptInEval(nn.Module):
    """Batch normalization that stays in eval mode, as in most fine-tuning."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Sequential(nn.Linear(10, 20), nn.BatchNorm1d(20)), nn.Linear(20, 5)
        self.body[1].running_mean.normal_()

    def train(self, mode=True):
        super().train(mode)
        self.body.eval()
        self.body.requires_grad_(not mode)
        return self

    def forward(self, x):
        return self.head(self.body(x).tanh())


@pytest.mark.parametrize("mode", [True, False])
def test_batch_normalization_that_the_model_keeps_in_eval_mode_uses_running_statistics(mode):
    model = KeptInEval().train(mode)
    before = state_of(model)
    found = measure_curvature(model, [examples(10)], cross_entropy, tolerance=1e-4)
    assert_same(before, state_of(model))
    frozen = KeptInEval().train()
    exact = exact_hessian(frozen.head, {**examples(10), "x": frozen.body(examples(10)["x"]).tanh().detach()})
    assert found.top.value == pytest.approx(torch.linalg.eigvalsh(exact)[-1].item(), rel=1e-3)


def test_embeddings_with_a_largest_norm_are_renormed_in_a_copy():
    class Bounded(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.words, self.head = nn.Embedding(10, 4, max_norm=1.0), nn.Linear(4, 5)

        def forward(self, x):
            return self.head(self.words(x).mean(1))

    model, batch = Bounded(), {"x": torch.arange(32).reshape(8, 4) % 10, "labels": torch.arange(8) % 5}
    before = state_of(model)
    found = measure_curvature(model, [batch], cross_entropy, tolerance=1e-4)
    assert_same(before, state_of(model))
    model(batch["x"])  # as a step of training does
    assert not torch.equal(model.words.weight, before["tensors"]["words.weight"])
    assert measure_curvature(model, [batch], cross_entropy, tolerance=1e-4).top.value == pytest.approx(
        found.top.value, rel=1e-4
    )


def test_recurrent_layers_are_measured_without_cudnn_which_comes_back():
    used = []

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.head = nn.LSTM(10, 4), nn.Linear(4, 5)

        def forward(self, x):
            used.append(torch.backends.cudnn.enabled)
            return self.head(self.layer(x)[0])

    assert torch.backends.cudnn.enabled
    assert measure_curvature(Recurrent(), [examples(10)], cross_entropy).method == "double_backward"
    assert torch.backends.cudnn.enabled and not any(used)


def test_recomputed_activations_are_those_of_the_substituted_parameters():
    model, batch = network("tanh", 3)

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            for layer in self.inner:
                x = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
            return x

    plain = measure_curvature(model, [batch], cross_entropy)
    for method in ("double_backward", "central_differences"):
        found = measure_curvature(Checkpointed(), [batch], cross_entropy, method=method)
        assert found.top.value == pytest.approx(plain.top.value, rel=0.01)


MEMORY = """
import sys

import torch
from torch import nn
from hf_critmom.curvature import measure_curvature, sample_noise

def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])

def from_here():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")

torch.set_num_threads(1)
torch.manual_seed(0)
layers = [module for _ in range(40) for module in (nn.Linear(350, 350), nn.Tanh())]
model = nn.Sequential(*layers, nn.Linear(350, 10)).to(getattr(torch, sys.argv[1]))
batch = {"x": torch.randn(4, 350), "labels": torch.randint(0, 10, (4,))}
vector = 4 * sum(p.numel() for p in model.parameters())

def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["x"].to(model[0].weight.dtype)), batch["labels"])

optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

def step():
    optimizer.zero_grad()
    loss(model, batch).backward()
    optimizer.step()

step()
optimizer.zero_grad()
from_here()
step()
of_training = peak()
optimizer.zero_grad()
halves = [{name: rows[part] for name, rows in batch.items()} for part in (slice(2), slice(2, 4))]
for measure in (
    lambda: measure_curvature(model, [batch], loss, max_iterations=10),
    lambda: measure_curvature(model, halves, loss, max_iterations=10),
    lambda: measure_curvature(model, [batch], loss, max_iterations=10, method="central_differences"),
    lambda: sample_noise(model, [batch], loss, rows=1),
):
    from_here()
    measure()
    print((peak() - of_training) / vector)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.parametrize(("dtype", "limits"), [("float32", (2.5, 2.5, 2.5, 1.5)), ("bfloat16", (3.2, 3.2, 3.2, 3.2))])
def test_a_measurement_needs_at_most_three_vectors_more_than_a_training_step(dtype, limits, run_python, monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # so that what is freed is seen as free
    finished = run_python("-c", MEMORY, dtype)
    assert finished.returncode == 0, finished.stderr
    pieces_differences_and_noise = map(float, finished.stdout.split())
    # the limits leave some room for a few of the forty tensors on the way
    assert all(found < limit for found, limit in zip(pieces_differences_and_noise, limits, strict=True))


# --- Several processes ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    finished = subprocess.run(
        [sys.executable, *launcher, programs.__file__, str(folder)], capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    return [torch.load(folder / f"found-{rank}.pt") for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_measure_what_one_measures_on_all_examples(two_processes):
    model, batch = network("tanh", 5)
    alone = measure_curvature(model, [batch], cross_entropy, tolerance=1e-4)
    assert two_processes[0] == two_processes[1]
    assert two_processes[0]["top"] == pytest.approx(alone.top.value, rel=1e-3)
    assert two_processes[0]["gradient"] == pytest.approx(alone.gradient, rel=1e-3)
    assert two_processes[0]["gradient_norm"] == pytest.approx(alone.gradient_norm, rel=1e-4)


@pytest.mark.slow
def test_two_processes_sample_the_noise_of_all_examples(two_processes):
    from hf_critmom.curvature import noise_scale, sample_noise

    model, batch = network("tanh", 5)
    alone = noise_scale([sample_noise(model, [batch], cross_entropy, rows=8)])
    assert two_processes[0]["noise"] == pytest.approx([alone.value, alone.low, alone.high], rel=1e-3)


@pytest.mark.slow
def test_a_process_without_examples_keeps_no_other_waiting(two_processes):
    from hf_critmom.curvature import sample_noise

    model, batch = perceptron(), examples(10)
    for found in two_processes:
        uneven = found["uneven"]
        assert uneven["method"] == "central_differences"
        alone = measure_curvature(model, [batch], cross_entropy, tolerance=1e-4)
        assert uneven["top"] == pytest.approx(alone.top.value, rel=1e-3)
        assert uneven["trace"] == pytest.approx(sample_noise(model, [batch], cross_entropy, rows=8).trace, rel=1e-3)


@pytest.mark.slow
def test_sharded_parameters_are_refused_in_a_sentence(two_processes):
    assert "FSDP2" in two_processes[0]["sharded"]
    assert "one process" in two_processes[0]["sharded"]
