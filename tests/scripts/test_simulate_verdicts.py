"""Claims about the simulation of verdicts: it draws runs as documented, and judges them as the package does."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.script_modules import load_script

from hf_critmom.experiments.comparison.statistics.arrivals import arrivals
from hf_critmom.experiments.comparison.statistics.summaries import Metric

simulation: Any = load_script("simulate_verdicts")
TARGETS = (0.6, 0.75, 0.85)


@pytest.fixture(scope="module")
def noise() -> Any:
    return simulation.fit_noise(simulation.SOURCES[0])


@pytest.mark.parametrize("smooth", [False, True])
def test_vectorised_arrivals_equal_those_of_single_runs(noise: Any, smooth: bool) -> None:
    """The switching relation finds the arrival of the isotonic regression without computing it."""
    values = simulation.draw(noise, np.array([1.0, 1.4]), 2, 4, np.random.default_rng(0))
    together = simulation.arrivals_of(values, TARGETS, 4, smooth=smooth)
    for index in range(2):
        table = pd.DataFrame(simulation._rows(values[index], 4))
        for arm in (0, 1):
            found = arrivals(table, f"arm{arm}", Metric("accuracy"), TARGETS, smooth=smooth)
            np.testing.assert_allclose(np.exp(together.logs[index, arm]) * 4, found.times, rtol=1e-9)
            np.testing.assert_array_equal(together.arrived[index, arm], found.arrived)
            np.testing.assert_array_equal(together.immediate[index, arm], found.immediate)


def test_verdicts_equal_those_of_the_package(noise: Any) -> None:
    same, total = simulation.agreement(noise, 1, 1.25, 3, 1)
    assert same == total == 3 * 2 * len(simulation.DESIGNS)


def test_the_true_ratio_is_the_requested_one(noise: Any) -> None:
    evidence = simulation.simulate(noise, 4, 1.25, 1, 300, 0)
    assert math.exp(evidence.estimate[-1].mean()) == pytest.approx(1.25, abs=0.01)


def test_the_spread_of_synthetic_runs_is_the_fitted_one(noise: Any) -> None:
    """Synthetic runs of the baseline deviate from their mean as much as the fitted deviation says."""
    values = simulation.draw(noise, np.array([1.0]), 300, 1, np.random.default_rng(0))[:, 0]
    late = values[..., -3:].std(axis=(0, 1))
    np.testing.assert_allclose(late, noise.deviation[-3:], rtol=0.35)
    assert 0.0 <= noise.shared < 0.3 and 0.0 < noise.correlation < 0.5 and 0.01 < noise.stretch < 0.1


@pytest.mark.parametrize("claims", [1, 4])
def test_the_type_i_error_is_at_most_5_percent_in_every_design(noise: Any, claims: int) -> None:
    """A small version of the committed table: at most 5 %, plus three standard errors."""
    comparisons = 800 // claims
    evidence = simulation.simulate(noise, 4, 1.0, claims, comparisons, 0)
    for design in simulation.DESIGNS:
        wrong = simulation.outcome_of(evidence, design, 1.0).any("faster", "slower")
        assert wrong <= 5.0 + 300.0 * math.sqrt(0.05 * 0.95 / comparisons), design


def test_the_defaults_find_a_relevant_difference() -> None:
    """1.25 with the noise of CIFAR-10, and 1.5 with that of digits and targets within the slower arm's budget."""
    for source, ratio in ((simulation.SOURCES[0], 1.25), (simulation.SOURCES[2], 1.5)):
        evidence = simulation.simulate(simulation.fit_noise(source), 4, ratio, 1, 1000, 0)
        five = next(design for design in simulation.DESIGNS if design.name == "5 seeds")
        assert simulation.outcome_of(evidence, five, ratio).each("slower") >= 90.0


def test_headlines_scatter_at_least_as_much_as_those_of_committed_runs() -> None:
    """Headlines of the committed digits scatter by 0.165; noise of evaluations alone would give half of that."""
    digits = simulation.fit_noise(simulation.SOURCES[1])
    values = simulation.draw(digits, np.ones(2), 400, 1, np.random.default_rng(1))
    logs = simulation.arrivals_of(values, digits.source.targets, 1, smooth=False).logs
    assert (logs[:, 1] - logs[:, 0]).mean(axis=-1).std() > 0.15
