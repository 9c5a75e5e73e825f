"""Claims about the gradient noise scale: it is what its definition says, and says when it cannot be told."""

import math

import numpy as np
import pytest
import torch
from helpers.curvature_programs import convolutional, cross_entropy, examples, perceptron
from torch import nn

from hf_critmom.curvature import CurvatureError, NoiseSample, NoiseScale, noise_scale, sample_noise


class Mean(nn.Module):
    """Loss ``|theta - x|^2 / 2``: an example's gradient is ``theta - x``, so that noise and mean are those of the x."""

    def __init__(self, size):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, x):
        return 0.5 * (self.theta - x).square().sum(1).mean()


def drawn(rows, scale, size=100, seed=0):
    """Examples whose gradients have a mean of length 1 and a noise scale of `scale`."""
    generator = torch.Generator().manual_seed(seed)
    x = math.sqrt(scale / size) * torch.randn(rows, size, generator=generator, dtype=torch.float64)
    x[:, 0] += 1.0
    return x


def loss(model, x):
    return model(x)


def test_a_sample_is_the_unbiased_trace_and_square_of_the_per_example_gradients():
    x = drawn(96, 50.0)
    sample = sample_noise(Mean(100), [x], loss, rows=1)
    assert (sample.rows, sample.batches) == (1, 96)
    assert sample.trace == pytest.approx(x.var(0).sum().item())
    assert sample.square == pytest.approx(x.mean(0).square().sum().item() - x.var(0).sum().item() / 96)


class Shared(nn.Module):
    """Gradients that autograd gives to two parameters at once, and one number in the shape of a parameter."""

    def __init__(self, apart=False, unused=False):
        super().__init__()
        self.inner, self.apart = perceptron((10, 20, 5)), apart
        self.shift, self.unused = nn.Parameter(torch.zeros(20, 10)), nn.Parameter(torch.zeros(3)) if unused else None

    def forward(self, x):
        shift = 1.0 * self.shift if self.apart else self.shift
        out = self.inner[2](self.inner[1](nn.functional.linear(x, self.inner[0].weight + shift)))
        return out if self.unused is None else out + 0.0 * self.unused.sum()


@pytest.mark.parametrize("model", [Shared(), Shared(unused=True)], ids=["two parameters", "a number expanded"])
def test_gradients_that_share_memory_count_as_if_they_did_not(model):
    found, expected = (sample_noise(one, [examples(10)], cross_entropy, rows=8) for one in (model, Shared(apart=True)))
    assert found.trace == pytest.approx(expected.trace, rel=1e-5)
    assert found.square == pytest.approx(expected.square, rel=1e-5)


@pytest.mark.parametrize("rows", [100, 250, 1000])
def test_estimates_do_not_depend_on_the_batch_size_but_for_chance(rows):
    x = drawn(20_000, 50.0)
    sample = sample_noise(Mean(100), [x], loss, rows=rows)
    assert sample.trace == pytest.approx(50.0, rel=0.1)
    assert sample.square == pytest.approx(1.0, rel=0.1)
    assert noise_scale([sample]).value == pytest.approx(50.0, rel=0.1)


def test_pseudo_values_average_to_the_estimates_and_are_those_of_leaving_batches_out():
    x = drawn(24, 10.0, size=5)
    sample = sample_noise(Mean(5), [x], loss, rows=4)
    assert np.mean(sample.traces) == pytest.approx(sample.trace)
    assert np.mean(sample.squares) == pytest.approx(sample.square)
    without = sample_noise(Mean(5), [x[4:]], loss, rows=4)
    assert sample.traces[0] == pytest.approx(6 * sample.trace - 5 * without.trace)
    assert sample.squares[0] == pytest.approx(6 * sample.square - 5 * without.square)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered, told = 0, 0
    for seed in range(50):
        found = noise_scale([sample_noise(Mean(40), [drawn(256, 60.0, size=40, seed=seed)], loss, rows=16)])
        covered += found.low <= 60.0 <= found.high
        told += found.value is not None
    assert covered >= 0.78 * 50  # 90 percent, less three standard errors
    assert told == 50


def test_a_gradient_lost_in_noise_has_no_value_but_a_lower_bound():
    found = [noise_scale([sample_noise(Mean(100), [drawn(128, 1e5, seed=seed)], loss, rows=8)]) for seed in range(10)]
    assert all(scale.high == math.inf and scale.value is None for scale in found)
    assert sum(128 < scale.low < 1e5 for scale in found) >= 9
    assert "cannot be told" in str(found[0])


def test_more_steps_tell_what_one_cannot():
    def scale(steps):
        samples = [sample_noise(Mean(100), [drawn(256, 1500.0, seed=seed)], loss, rows=32) for seed in range(steps)]
        return noise_scale(samples)

    one, many = scale(1), scale(24)
    assert one.value is None and one.samples == 1
    assert many.value == pytest.approx(1500.0, rel=0.3) and many.samples == 24
    assert one.low < many.low < 1500.0 < many.high < one.high


def test_without_noise_the_scale_is_zero():
    found = noise_scale([sample_noise(Mean(4), [torch.ones(32, 4, dtype=torch.float64)], loss, rows=4)])
    assert found.value == pytest.approx(0.0, abs=1e-12)


def test_two_batches_give_an_estimate_and_no_interval():
    sample = sample_noise(Mean(100), [drawn(64, 5.0)], loss, rows=32)
    assert sample.batches == 2 and sample.traces == ()
    found = noise_scale([sample])
    assert (found.value, found.low, found.high) == (None, 0.0, math.inf)
    assert "cannot be told" in str(found)


def test_batches_are_divided_and_what_does_not_fill_one_is_left_out():
    x = drawn(50, 5.0)
    assert sample_noise(Mean(100), [x[:30], x[30:]], loss, rows=8).batches == 5
    assert sample_noise(Mean(100), [x], loss).rows == 3


@pytest.mark.parametrize("rows", [64, 40])
def test_a_batch_too_small_for_two_is_a_sentence(rows):
    with pytest.raises(CurvatureError, match=r"64 examples do not make two batches of \d+"):
        sample_noise(perceptron(), [examples(10)], cross_entropy, rows=rows)


@pytest.mark.parametrize("rows", [0, -1, 3.5])
def test_a_size_that_no_batch_has_is_a_sentence(rows):
    with pytest.raises(CurvatureError, match=f"rows={rows} is not valid"):
        sample_noise(perceptron(), [examples(10)], cross_entropy, rows=rows)


def test_no_samples_are_a_sentence():
    with pytest.raises(CurvatureError, match="No gradient noise"):
        noise_scale([])


@pytest.mark.parametrize("level", [0.0, 1.0, 90])
def test_a_level_that_is_no_probability_is_a_sentence(level):
    with pytest.raises(CurvatureError, match=f"level={level} is not valid"):
        noise_scale([sample_noise(perceptron(), [examples(10)], cross_entropy)], level=level)


def test_a_ratio_of_numbers_that_say_nothing_is_not_told():
    nothing = NoiseSample(8, 4, -1.0, 0.1, (-5.0, 3.0, -1.0, -1.0), (0.4, -0.2, 0.1, 0.1))
    assert noise_scale([nothing]).value is None


def test_sampling_leaves_the_model_as_it_is():
    model, batch = convolutional().train(), examples(64)
    cross_entropy(model, batch).backward()
    before = [tensor.clone() for tensor in (*model.parameters(), *model.buffers())]
    gradients = [p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    sample_noise(model, [batch], cross_entropy, rows=16)
    assert all(torch.equal(a, b) for a, b in zip(before, (*model.parameters(), *model.buffers()), strict=True))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())


def test_words_tell_value_and_interval():
    assert str(NoiseScale(230.0, 150.0, 380.0, 0.9, 1, (64, 512))) == "230 (90% interval 150 to 380)"
