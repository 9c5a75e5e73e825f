"""Claims about the simulation of verdicts: it draws what it says, and judges as the program does."""

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
def test_many_runs_at_once_arrive_as_one_by_one(noise: Any, smooth: bool) -> None:
    """The switching relation finds where the isotonic regression arrives, without computing it."""
    values = simulation.draw(noise, np.array([1.0, 1.4]), 2, 4, np.random.default_rng(0))
    together = simulation.arrivals_of(values, TARGETS, 4, smooth=smooth)
    for index in range(2):
        table = pd.DataFrame(simulation._rows(values[index], 4))
        for arm in (0, 1):
            found = arrivals(table, f"arm{arm}", Metric("accuracy"), TARGETS, smooth=smooth)
            np.testing.assert_allclose(np.exp(together.logs[index, arm]) * 4, found.times, rtol=1e-9)
            np.testing.assert_array_equal(together.arrived[index, arm], found.arrived)
            np.testing.assert_array_equal(together.immediate[index, arm], found.immediate)


def test_the_words_are_those_of_the_programs_own_verdicts(noise: Any) -> None:
    same, total = simulation.agreement(noise, 1, 1.25, 3, 1)
    assert same == total == 3 * 2 * len(simulation.DESIGNS)


def test_the_true_ratio_is_what_was_asked_for(noise: Any) -> None:
    evidence = simulation.simulate(noise, 4, 1.25, 1, 300, 0)
    assert math.exp(evidence.estimate[-1].mean()) == pytest.approx(1.25, abs=0.01)


def test_spread_and_level_of_the_noise_are_the_runs_own(noise: Any) -> None:
    """Synthetic runs of the baseline deviate from their mean as much as the fitted deviation says."""
    values = simulation.draw(noise, np.array([1.0]), 300, 1, np.random.default_rng(0))[:, 0]
    late = values[..., -3:].std(axis=(0, 1))
    np.testing.assert_allclose(late, noise.deviation[-3:], rtol=0.35)
    assert 0.0 <= noise.shared < 0.3 and 0.0 < noise.correlation < 0.5 and 0.01 < noise.stretch < 0.1


@pytest.mark.parametrize("claims", [1, 4])
def test_without_a_difference_few_comparisons_find_one_whatever_the_design(noise: Any, claims: int) -> None:
    """A small edition of the committed table: 5 % and three standard errors."""
    comparisons = 800 // claims
    evidence = simulation.simulate(noise, 4, 1.0, claims, comparisons, 0)
    for design in simulation.DESIGNS:
        wrong = simulation.outcome_of(evidence, design, 1.0).any("faster", "slower")
        assert wrong <= 5.0 + 300.0 * math.sqrt(0.05 * 0.95 / comparisons), design


def test_with_the_defaults_a_difference_that_matters_is_found() -> None:
    """1.25 with CIFAR-10's noise, and 1.5 with that of digits to targets that the slower arm reaches in its budget."""
    for source, ratio in ((simulation.SOURCES[0], 1.25), (simulation.SOURCES[2], 1.5)):
        evidence = simulation.simulate(simulation.fit_noise(source), 4, ratio, 1, 1000, 0)
        five = next(design for design in simulation.DESIGNS if design.name == "5 seeds")
        assert simulation.outcome_of(evidence, five, ratio).each("slower") >= 90.0


def test_headlines_scatter_at_least_as_those_of_the_committed_runs() -> None:
    """Digits' three seeds scatter by 0.165, and a noise of evaluations alone would scatter by half of that."""
    digits = simulation.fit_noise(simulation.SOURCES[1])
    values = simulation.draw(digits, np.ones(2), 400, 1, np.random.default_rng(1))
    logs = simulation.arrivals_of(values, digits.source.targets, 1, smooth=False).logs
    assert (logs[:, 1] - logs[:, 0]).mean(axis=-1).std() > 0.15
