"""Claims about what is said of momentum: it follows from the measured numbers, and they stand in the sentence."""

import math
import re

import pytest

from hf_critmom.curvature import CurvatureError, NoiseScale, momentum_advice
from hf_critmom.curvature.logged import LoggedCurvature
from hf_critmom.damping import critical_nu, damping_ratio


def noise(value, low, high):
    return NoiseScale(value, low, high, 0.9, 3, (64, 512))


def test_noise_well_above_the_batch_size_leaves_momentum_nothing_to_do():
    advice = momentum_advice(64, noise(230.0, 150.0, 380.0), mean_step=0.2, curvature=8.0)
    assert advice.role == "hardly"
    for word in ("hardly", "64", "230", "150", "380", "mean step", "0.2", "8"):
        assert word in advice.sentence
    assert momentum_advice(64, noise(None, 150.0, math.inf), 0.2, 8.0).role == "hardly", "a lower bound is enough"


def test_a_mean_step_beyond_the_limit_of_plain_sgd_needs_momentum_whatever_the_noise():
    for scale in (None, noise(230.0, 150.0, 380.0), noise(None, 0.0, math.inf)):
        advice = momentum_advice(64, scale, mean_step=1.0, curvature=14.0)
        assert advice.role == "needed"
        assert advice.least_momentum == pytest.approx(0.75)
        for word in ("needed", "0.75", "upwards", "critmom_qhm"):
            assert word in advice.sentence


def test_the_least_momentum_is_the_one_at_which_a_heavy_ball_becomes_stable():
    product = 14.0
    momentum = momentum_advice(64, None, 1.0, product).least_momentum
    assert product == pytest.approx(2.0 * (1.0 + momentum) / (1.0 - momentum))


@pytest.mark.parametrize("product", [4.5, 14.0, 60.0])
def test_what_is_recommended_against_the_oscillation_is_stable_from_the_momentum_named_on(product):
    advice = momentum_advice(64, None, 1.0, product)
    nesterov = float(re.search(r"Nesterov's momentum from (\d\.\d+) upwards", advice.sentence).group(1))

    def ratio(momentum, nu=None):  # positive where a step is stable
        lr = 1.0 - momentum  # at a mean step of 1
        weight = critical_nu(momentum, lr, curvature=product) if nu is None else nu
        return damping_ratio(momentum, lr, curvature=product, nu=weight)

    assert ratio(nesterov - 0.01, nesterov - 0.01) < 0.0 < ratio(nesterov + 0.01, nesterov + 0.01)
    assert ratio(advice.least_momentum + 0.001) > 0.0


def test_a_gradient_that_is_not_lost_in_noise_lets_momentum_matter():
    assert momentum_advice(1024, noise(600.0, 340.0, 1160.0), 0.2, 8.0).role == "can"


def test_an_interval_that_does_not_decide_leaves_it_open():
    assert momentum_advice(64, noise(150.0, 90.0, 300.0), 0.2, 8.0).role == "open"
    assert momentum_advice(64, noise(None, 0.0, math.inf), 0.2, 8.0).role == "open"
    advice = momentum_advice(64, None, 0.2, 8.0)
    assert advice.role == "open" and "not measured" in advice.sentence


@pytest.mark.parametrize(
    "numbers", [(0, 0.2, 8.0), (64, 0.0, 8.0), (64, 0.2, -1.0), (64, 0.2, math.nan), ("64", 0.2, 8.0)]
)
def test_numbers_that_say_nothing_are_a_sentence(numbers):
    batch_size, mean_step, curvature = numbers
    with pytest.raises(CurvatureError, match="expected a positive number"):
        momentum_advice(batch_size, None, mean_step, curvature)


def logged(*points):
    """Records of a run, from step, mean step and top curvature of each point."""
    noise = {"noise_scale": 50.0, "noise_scale_low": 40.0, "noise_scale_high": 60.0, "noise_scale_rows": 32.0}
    return LoggedCurvature.from_records(
        [
            {"step": step, "curvature/mean_step": mean_step, "curvature/top": top, **noise}
            for step, mean_step, top in points
        ]
    )


def test_the_sentence_on_a_run_names_products_that_were_measured_and_does_not_hide_the_largest():
    run = logged((0, 1.0, 5.0), (10, 1.0, 1.0), (50, 0.9, 2.0), (100, 0.5, 30.0))
    assert run.products == (1.0, 1.8, 15.0)
    advice = run.advice(64)
    assert advice.role == "can" and advice.least_momentum == 0.0
    assert "median 1.8 over 3 points of the run, largest 15" in advice.sentence
    least = float(re.search(r"stable from momentum (\d\.\d+) upwards", advice.sentence).group(1))
    assert pytest.approx(2.0 * (1.0 + least) / (1.0 - least), rel=0.05) == 15.0


def test_a_run_that_is_stable_without_momentum_at_every_point_is_not_told_of_a_limit():
    assert "plain SGD" not in logged((0, 1.0, 5.0), (10, 1.0, 1.0), (50, 0.9, 2.0)).advice(64).sentence
    assert "2.5 at one point of the run" in logged((10, 0.5, 5.0)).advice(64).sentence
    assert logged((10, 0.5, -5.0)).advice(64) is None
