"""Claims about the damping rules, against naive numerics: roots of polynomials, and the continuous oscillator."""

import ast
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import hf_critmom.damping
from hf_critmom.damping import LARGEST_MOMENTUM, RULES, critical_momentum, damping_ratio, damping_regime

EPSILON = sys.float_info.epsilon

any_rule = pytest.mark.parametrize("rule", RULES)
learning_rates = st.floats(0.0, allow_infinity=False, allow_nan=False)
usual_learning_rates = st.floats(1e-8, 1.0)
curvatures = st.floats(1e-3, 1e3)
momenta = st.floats(0.0, 0.9999)


HEAVY_BALL_RULES = ("linear", "exact", "exponential")


def roots(momentum, product):
    """Roots of the heavy ball's characteristic polynomial on a quadratic, product = lr * curvature."""
    return np.roots([1.0, -(1.0 + momentum - product), momentum])


def test_the_papers_rule_and_its_two_relatives_are_there():
    assert set(HEAVY_BALL_RULES) <= set(RULES)
    for name, rule in RULES.items():
        assert rule.name == name


@any_rule
@given(lr=learning_rates, curvature=curvatures)
def test_momentum_always_lies_in_the_half_open_unit_interval(rule, lr, curvature):
    assert 0.0 <= critical_momentum(lr, rule=rule, curvature=curvature) < 1.0


@any_rule
@given(lr=learning_rates, other=learning_rates)
def test_momentum_never_grows_with_the_learning_rate(rule, lr, other):
    low, high = sorted((lr, other))
    one_rounding_above = math.nextafter(critical_momentum(low, rule=rule), math.inf)
    assert critical_momentum(high, rule=rule) <= one_rounding_above


@any_rule
@given(lr=usual_learning_rates, curvature=st.floats(1e-2, 1e2))
def test_only_the_product_of_learning_rate_and_curvature_matters(rule, lr, curvature):
    momentum = critical_momentum(lr, rule=rule, curvature=curvature)
    assert momentum == pytest.approx(critical_momentum(lr * curvature, rule=rule), rel=1e-12, abs=1e-12)


@given(lr=st.floats(0.0, 0.25))
def test_the_linear_rule_is_the_papers_formula(lr):
    assert critical_momentum(lr) == pytest.approx(1.0 - 2.0 * math.sqrt(lr), rel=0.0, abs=2 * EPSILON)


@any_rule
def test_zero_learning_rate_gives_the_largest_momentum_below_one(rule):
    assert critical_momentum(0.0, rule=rule) == LARGEST_MOMENTUM
    assert math.nextafter(LARGEST_MOMENTUM, 2.0) == 1.0


def test_the_linear_rule_is_zero_from_a_quarter_on():
    assert critical_momentum(math.nextafter(0.25, 0.0)) > 0.0
    for lr in (0.25, 0.3, 1.0, 100.0):
        assert critical_momentum(lr) == 0.0


def test_curvature_moves_where_the_linear_rule_ends():
    assert critical_momentum(0.05, curvature=4.0) > 0.0
    assert critical_momentum(0.0625, curvature=4.0) == 0.0
    assert critical_momentum(0.5, curvature=0.25) > 0.0


@given(product=st.floats(1.0, 1e6), curvature=curvatures)
def test_the_exact_rule_does_not_rise_again_where_its_parabola_would(product, curvature):
    assert critical_momentum(product / curvature, rule="exact", curvature=curvature) == pytest.approx(0.0, abs=EPSILON)


@given(lr=st.floats(0.0, 1e4))
def test_the_exponential_rule_needs_no_clamp(lr):
    assert critical_momentum(lr, rule="exponential") > 0.0


@given(lr=st.floats(0.0, 10.0), curvature=st.floats(1e-2, 1e2))
def test_rules_agree_to_first_order_in_the_square_root_of_the_learning_rate(lr, curvature):
    momenta_by_rule = [critical_momentum(lr, rule=rule, curvature=curvature) for rule in HEAVY_BALL_RULES]
    assert max(momenta_by_rule) - min(momenta_by_rule) <= 2.0 * lr * curvature + 4 * EPSILON


@any_rule
@given(lr=usual_learning_rates, curvature=curvatures)
def test_a_rules_own_momentum_is_critical(rule, lr, curvature):
    momentum = critical_momentum(lr, rule=rule, curvature=curvature)
    assume(momentum > 0.0)
    rounding = 8 * EPSILON * (1.0 + 1.0 / (1.0 - momentum))  # that of a momentum near 1 is large beside 1 - momentum
    assert damping_ratio(momentum, lr, rule=rule, curvature=curvature) == pytest.approx(1.0, rel=rounding, abs=rounding)
    assert damping_regime(momentum, lr, rule=rule, curvature=curvature) == "critical"


@any_rule
@given(lr=usual_learning_rates, momentum=momenta)
def test_more_momentum_is_less_damping(rule, lr, momentum):
    critical = critical_momentum(lr, rule=rule)
    assume(abs(momentum - critical) > 1e-4)
    below = damping_ratio(momentum, lr, rule=rule) < 1.0
    assert below == (momentum > critical)
    assert damping_regime(momentum, lr, rule=rule) == ("underdamped" if below else "overdamped")


@given(lr=usual_learning_rates, momentum=momenta, curvature=curvatures)
def test_the_default_ratio_is_friction_over_twice_the_frequency(lr, momentum, curvature):
    ratio = (1.0 - momentum) / (2.0 * math.sqrt(lr * curvature))
    assert damping_ratio(momentum, lr, curvature=curvature) == pytest.approx(ratio, rel=1e-12)


# The heavy ball's step on a quadratic, as a share of what makes the roots complex; Adam's running average
# m <- momentum m + (1 - momentum) g is a heavy ball whose step is smaller by 1 - momentum.
SHARP_RULES = {"exact": lambda momentum: 1.0, "ema": lambda momentum: 1.0 - momentum}
sharp_rule = pytest.mark.parametrize("rule", SHARP_RULES)


@sharp_rule
@given(momentum=st.floats(0.0, 0.999), lr=st.floats(1e-4, 9.0))
def test_the_ratio_of_a_sharp_rule_is_below_one_where_the_step_oscillates(rule, momentum, lr):
    product = lr * SHARP_RULES[rule](momentum)
    discriminant = (1.0 + momentum - product) ** 2 - 4.0 * momentum
    assume(abs(discriminant) > 1e-9)
    found = roots(momentum, product)
    has_complex_roots = bool(np.abs(found.imag).max() > 0.0)
    underdamped = damping_ratio(momentum, lr, rule=rule) < 1.0
    if product < (1.0 + math.sqrt(momentum)) ** 2:
        assert underdamped == has_complex_roots
    else:  # the step overshoots so far that the roots are real again, and negative: an oscillation of period two
        assert underdamped and not has_complex_roots and found.real.min() < 0.0


@sharp_rule
@given(lr=st.floats(1e-4, 0.98))
def test_a_sharp_rule_is_the_double_root(rule, lr):
    momentum = critical_momentum(lr, rule=rule)
    found = roots(momentum, lr * SHARP_RULES[rule](momentum))
    # A double root is found to about the square root of the rounding.
    assert found == pytest.approx(math.sqrt(momentum), abs=1e-6)


@sharp_rule
@given(lr=st.floats(1e-4, 0.98), momentum=momenta)
def test_no_momentum_decays_faster_than_a_sharp_rules(rule, lr, momentum):
    critical = critical_momentum(lr, rule=rule)
    fastest = np.abs(roots(critical, lr * SHARP_RULES[rule](critical))).max()
    assert np.abs(roots(momentum, lr * SHARP_RULES[rule](momentum))).max() >= fastest - 1e-6


@given(lr=st.floats(1e-4, 1.0), curvature=st.floats(1e-2, 1e2))
def test_the_exponential_rule_is_the_continuous_oscillators_critical_friction(lr, curvature):
    time_step = math.sqrt(lr)
    friction = -math.log(critical_momentum(lr, rule="exponential", curvature=curvature)) / time_step
    # x'' + friction x' + curvature x = 0: both exponents are -sqrt(curvature), none complex.
    exponents = np.linalg.eigvals([[0.0, 1.0], [-curvature, -friction]])
    assert exponents == pytest.approx(-math.sqrt(curvature), rel=1e-6)


@any_rule
def test_a_constant_of_nine_tenths_is_critical_at_one_learning_rate_only(rule):
    critical_lr = RULES[rule].frequency(0.9) ** 2
    if rule == "linear":
        assert critical_lr == pytest.approx(0.0025, rel=1e-12)
    assert damping_regime(0.9, critical_lr, rule=rule) == "critical"
    for factor in (1.001, 2.0, 1000.0):
        assert damping_regime(0.9, critical_lr * factor, rule=rule) == "underdamped"
        assert damping_regime(0.9, critical_lr / factor, rule=rule) == "overdamped"


@given(lr=st.floats(1e-6, 0.24))
def test_the_linear_rule_is_a_learning_rate_schedule_in_disguise(lr):
    # A heavy ball under a constant gradient moves lr / (1 - momentum) per step, in the long run.
    momentum = critical_momentum(lr)
    velocity = 0.0
    for _ in range(int(40.0 / (1.0 - momentum)) if lr > 1e-4 else 0):
        velocity = momentum * velocity + 1.0
    mean_step = lr * velocity if velocity else lr / (1.0 - momentum)
    assert mean_step == pytest.approx(math.sqrt(lr) / 2.0, rel=1e-9)


def test_a_clamped_momentum_is_underdamped_and_never_called_critical():
    assert damping_regime(critical_momentum(0.3), 0.3) == "underdamped"
    assert damping_regime(critical_momentum(0.25), 0.25) == "critical"


def test_nothing_moves_at_learning_rate_zero_so_the_ratio_is_infinite():
    assert damping_ratio(0.9, 0.0) == math.inf
    assert damping_regime(0.9, 0.0) == "overdamped"
    assert damping_regime(critical_momentum(0.0), 0.0) == "critical"


NO_NUMBERS = (-1e-9, -1.0, math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("lr", NO_NUMBERS)
@pytest.mark.parametrize("function", [critical_momentum, lambda lr: damping_ratio(0.5, lr)])
def test_an_impossible_learning_rate_is_named(function, lr):
    with pytest.raises(ValueError, match="learning rate must be finite and not negative") as error:
        function(lr)
    assert str(lr) in str(error.value)


@pytest.mark.parametrize("curvature", [0.0, *NO_NUMBERS])
@pytest.mark.parametrize(
    "function",
    [lambda curvature: critical_momentum(0.1, curvature=curvature), lambda k: damping_regime(0.5, 0.1, curvature=k)],
)
def test_an_impossible_curvature_is_named(function, curvature):
    with pytest.raises(ValueError, match="curvature must be finite and positive") as error:
        function(curvature)
    assert str(curvature) in str(error.value)


@pytest.mark.parametrize("momentum", [1.0, *NO_NUMBERS])
@pytest.mark.parametrize("function", [damping_ratio, damping_regime])
def test_an_impossible_momentum_is_named(function, momentum):
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\)") as error:
        function(momentum, 0.1)
    assert str(momentum) in str(error.value)


@pytest.mark.parametrize("rule", ["quadratic", "", "Linear", None, 3, ["linear"]])
@pytest.mark.parametrize(
    "function",
    [
        critical_momentum,
        lambda lr, rule: damping_ratio(0.5, lr, rule=rule),
        lambda lr, rule: damping_regime(0.5, lr, rule=rule),
    ],
)
def test_an_unknown_rule_is_named_and_so_are_the_known(function, rule):
    with pytest.raises(ValueError) as error:
        function(0.1, rule=rule)
    assert repr(rule) in str(error.value)
    for known in RULES:
        assert known in str(error.value)


def test_the_damping_module_needs_nothing_but_the_standard_library():
    tree = ast.parse(Path(hf_critmom.damping.__file__).read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import reaches the rest of the package"
            imported.add(node.module)
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names
