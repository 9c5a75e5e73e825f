"""Momentum from the critically damped oscillator: pure floats, no torch.

Heavy ball in PyTorch's form, ``v <- mu v + g`` and ``theta <- theta - alpha v``, is a discretised damped
oscillator. On a quadratic of curvature ``k`` its behavior depends on ``mu`` and on the single number
``s = sqrt(alpha k)``, the frequency of the undamped oscillator in units of one step. Critical damping, the
fastest decay without oscillation, fixes ``mu`` as a function of ``s``; how exactly the continuous friction
is carried over to a step is what distinguishes the rules below. `ema` is the exact one for the running average of
Adam, ``m <- mu m + (1 - mu) g``.

The `linear` rule, ``mu = 1 - 2 sqrt(alpha)``, is the one of I. Pasichnyk, "Beta-Scheduling: Momentum from
Critical Damping" (arXiv 2603.28921). The other rules and the inverse of each are our own derivations, checked
numerically in ``tests/optim/test_damping.py``.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Regime = Literal["underdamped", "critical", "overdamped"]

LARGEST_MOMENTUM = math.nextafter(1.0, 0.0)
"""The largest momentum a rule returns: at learning rate 0 every rule tends to 1, which is excluded."""


@dataclass(frozen=True)
class Rule:
    """A way to turn critical damping into the momentum of one step.

    Attributes:
        name: What ``rule=`` is called with.
        formula: The formula, as documentation.
        momentum: Maps ``s = sqrt(lr * curvature) >= 0`` to the critical momentum, before clamping to [0, 1).
        frequency: The inverse: the ``s`` for which a momentum in [0, 1) is critical.
    """

    name: str
    formula: str
    momentum: Callable[[float], float]
    frequency: Callable[[float], float]


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "linear",
            "1 - 2 sqrt(lr k)",
            momentum=lambda s: 1.0 - 2.0 * s,
            frequency=lambda mu: (1.0 - mu) / 2.0,
        ),
        Rule(
            "exact",
            "(1 - sqrt(lr k))^2",
            # The double root of z^2 - (1 + mu - s^2) z + mu. Beyond s = 1 no momentum gives a positive double root.
            momentum=lambda s: (1.0 - s) ** 2 if s < 1.0 else 0.0,
            frequency=lambda mu: 1.0 - math.sqrt(mu),
        ),
        Rule(
            "exponential",
            "exp(-2 sqrt(lr k))",
            momentum=lambda s: math.exp(-2.0 * s),
            frequency=lambda mu: -math.log(mu) / 2.0 if mu > 0.0 else math.inf,
        ),
        Rule(
            "ema",
            "((1 - lr k) / (1 + lr k))^2",
            # m <- mu m + (1 - mu) g is a heavy ball of step lr (1 - mu): the exact rule's double root for that step.
            momentum=lambda s: ((1.0 - s * s) / (1.0 + s * s)) ** 2 if s < 1.0 else 0.0,
            frequency=lambda mu: math.sqrt((1.0 - math.sqrt(mu)) / (1.0 + math.sqrt(mu))),
        ),
    )
}


def critical_momentum(lr: float, *, rule: str = "linear", curvature: float = 1.0) -> float:
    """The momentum that makes a heavy-ball step critically damped.

        >>> [round(critical_momentum(lr), 6) for lr in (0.1, 0.01, 0.0025)]
        [0.367544, 0.8, 0.9]

    Args:
        lr: Learning rate of the step, finite and not negative.
        rule: A name in `RULES`.
        curvature: Curvature ``k`` of the loss that is to be critically damped; the paper sets 1.

    Returns:
        The momentum, in [0, 1): 0 where the rule is negative (`linear` above ``lr * curvature = 0.25``, `exact`
        above 1), and the largest float below 1 where it rounds to 1 (``lr`` 0 or nearly so).

    Raises:
        ValueError: If ``lr`` is negative or not finite, ``curvature`` not positive or not finite, or the rule unknown.

    Source: arXiv 2603.28921 for `linear`; see the module's docstring for the others.
    """
    momentum = get_rule(rule).momentum(_frequency(lr, curvature))
    return min(max(momentum, 0.0), LARGEST_MOMENTUM)


def critical_nu(momentum: float, lr: float, *, curvature: float = 1.0) -> float:
    """The immediate weight that makes a quasi-hyperbolic momentum step critically damped, at any constant momentum.

    The step is ``v <- mu v + g``, ``theta <- theta - lr [nu v + (1 - nu) / (1 - mu) g]``; its mean step
    ``h = lr / (1 - mu)`` does not depend on ``nu``. With ``nu = (1 - sqrt((1 - mu) / (h k)))^2 / mu`` the
    characteristic polynomial at curvature ``k`` has the double root ``1 - sqrt(lr k)``.

    Args:
        momentum: Momentum ``mu``, in [0, 1).
        lr: Learning rate of the step, finite and not negative.
        curvature: Curvature ``k`` that is to be critically damped, positive.

    Returns:
        The weight, in [0, 1]: 0 (plain gradient descent of the same mean step) where ``h k <= 1 - mu``, for nothing
        oscillates there, and 1 (heavy ball) from ``lr k = (1 + sqrt(mu))^2`` on, where the formula exceeds it. Above
        ``lr k = 1`` the double root is negative: the step changes its sign each time, at any weight.

    Raises:
        ValueError: If ``momentum`` lies outside [0, 1), and as `critical_momentum`.

    Source: Ma and Yarats, arXiv 1810.06801, for quasi-hyperbolic momentum; the critical weight is our own derivation,
    checked numerically in the tests.
    """
    _check_momentum(momentum)
    frequency = _frequency(lr, curvature)
    if frequency <= 1.0 - momentum:
        return 0.0
    excess = (1.0 - (1.0 - momentum) / frequency) ** 2
    return excess / momentum if excess < momentum else 1.0


def damping_ratio(
    momentum: float, lr: float, *, rule: str = "linear", curvature: float = 1.0, nu: float | None = None
) -> float:
    """The damping ratio of a momentum step: below 1 underdamped, 1 critical, above 1 overdamped.

    Under the default rule this is ``(1 - mu) / (2 sqrt(lr k))``. Every rule measures against itself: the
    ratio is 1 at its own critical momentum. The `exact` rule's ratio is below 1 if and only if the step
    oscillates: the roots of its characteristic polynomial are complex, or negative for ``lr k`` above
    ``(1 + sqrt(mu))^2``.

    Args:
        momentum: Momentum of the step, in [0, 1).
        lr: Learning rate of the step, finite and not negative.
        rule: A name in `RULES`; without effect where ``nu`` is given.
        curvature: Curvature ``k``, positive.
        nu: The immediate weight of a quasi-hyperbolic momentum step, in [0, 1] (Nesterov's momentum is ``nu = mu``), or
            None for a heavy ball. With it the ratio is that of the continuous oscillator whose samples the step's two
            roots describe: below 1 if and only if the step oscillates, not positive where it diverges.

    Returns:
        The ratio; infinite at ``lr`` 0, where friction acts on no force, and where a root is 0.

    Raises:
        ValueError: As `critical_momentum`, and if ``momentum`` lies outside [0, 1) or ``nu`` outside [0, 1].
    """
    _check_momentum(momentum)
    frequency = _frequency(lr, curvature)
    if nu is not None:
        return _ratio_of_roots(momentum, nu, frequency) if frequency > 0.0 else math.inf
    critical_frequency = get_rule(rule).frequency(momentum)
    return critical_frequency / frequency if frequency > 0.0 else math.inf


def damping_regime(
    momentum: float, lr: float, *, rule: str = "linear", curvature: float = 1.0, nu: float | None = None
) -> Regime:
    """Names the regime of a momentum step; arguments and errors are those of `damping_ratio`.

    "critical" allows for rounding: momenta that differ from the rule's own by a few units in the last place, or
    whose ratio differs from 1 by less than one part in a million. So a step at ``lr`` 0 with the momentum of
    `critical_momentum` is critical, although nothing moves there.

        >>> [damping_regime(0.9, lr) for lr in (0.1, 0.0025, 0.0001)]
        ['underdamped', 'critical', 'overdamped']
    """
    ratio = damping_ratio(momentum, lr, rule=rule, curvature=curvature, nu=nu)
    critical = critical_momentum(lr, rule=rule, curvature=curvature)
    same_momentum = critical > 0.0 and math.isclose(momentum, critical, rel_tol=0.0, abs_tol=4 * math.ulp(1.0))
    return "critical" if nu is None and same_momentum else regime_of(ratio)


def regime_of(ratio: float) -> Regime:
    """Names the regime of a damping ratio: "critical" if it differs from 1 by less than one part in a million."""
    if math.isclose(ratio, 1.0, rel_tol=1e-6):
        return "critical"
    return "underdamped" if ratio < 1.0 else "overdamped"


def get_rule(name: str) -> Rule:
    """Looks a rule up; the error names the known ones."""
    try:
        return RULES[name]
    except (KeyError, TypeError):
        raise ValueError(f"Unknown rule {name!r}: choose one of {', '.join(RULES)}.") from None


def _ratio_of_roots(momentum: float, nu: float, frequency: float) -> float:
    """The damping ratio of a quasi-hyperbolic step from the roots ``z`` of its characteristic polynomial.

    A continuous oscillator sampled once a step has ``ln z = -zeta w +- i w sqrt(1 - zeta^2)``. Our own derivation: the
    polynomial is ``z^2 - (1 + mu - lr k (nu + c)) z + mu (1 - lr k c)`` with ``c = (1 - nu) / (1 - mu)``. Where a step
    moves little, roots lie near 1 and ``1 - z`` loses its digits, so it is taken from the same polynomial in
    ``w = 1 - z``: ``w^2 - (1 - mu + lr k (nu + c)) w + lr k``.
    """
    if not 0.0 <= nu <= 1.0:
        raise ValueError(f"nu must lie in [0, 1], got {nu}.")
    force = frequency * frequency
    immediate = force * (1.0 - nu) / (1.0 - momentum)
    half_sum = (1.0 - momentum + force * nu + immediate) / 2.0  # of the roots w
    half_trace = (1.0 + momentum - force * nu - immediate) / 2.0  # of the roots z
    determinant = momentum * (1.0 - immediate)
    discriminant = half_sum**2 - force if half_trace > 0.5 else half_trace**2 - determinant
    if discriminant < 0.0 < determinant:
        decay = _decay(determinant, 1.0 - momentum + momentum * immediate) / 2.0
        return decay / math.hypot(decay, math.atan2(math.sqrt(-discriminant), half_trace))
    root = math.sqrt(max(discriminant, 0.0))
    larger = abs(half_trace) + root  # in absolute value
    if larger == 0.0:
        return 1.0  # a double root at 0: at rest after two steps
    negative = larger if half_trace < 0.0 else max(-determinant / larger, 0.0)
    if negative > 0.0:  # it changes its sign at every step
        decay = -math.log(negative)
        return decay / math.hypot(decay, math.pi)
    if determinant <= 0.0:
        return math.inf
    fast, slow = _decay(determinant / larger, half_sum + root), _decay(larger, force / (half_sum + root))
    return (slow + fast) / (2.0 * math.sqrt(slow) * math.sqrt(fast)) if slow > 0.0 else math.inf


def _decay(factor: float, lost: float) -> float:
    """``-ln(factor)`` of a factor and the share that it takes away, ``1 - factor``, from the more accurate of both."""
    return -math.log1p(-lost) if lost < 0.5 else -math.log(factor)


def _check_momentum(momentum: float) -> None:
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum}.")


def _frequency(lr: float, curvature: float) -> float:
    """``sqrt(lr * curvature)``, the undamped oscillator's frequency per step, after checking both."""
    if not (math.isfinite(lr) and lr >= 0.0):
        raise ValueError(f"The learning rate must be finite and not negative, got {lr}.")
    if not (math.isfinite(curvature) and curvature > 0.0):
        raise ValueError(f"The curvature must be finite and positive, got {curvature}.")
    return math.sqrt(lr) * math.sqrt(curvature)


def integrated_steps(
    records: Iterable[tuple[float, float]], *, nesterov: bool = False, averaged: bool = False
) -> list[float]:
    """How far each step of a run moves per unit of a constant gradient: ``lr_t S_t`` with ``S_t = mu_t S_(t-1) + 1``.

    For constant learning rate and momentum it tends to ``lr / (1 - mu)``, the mean step of a heavy ball (often called
    the effective learning rate). Two runs with the same integrated steps differ in nothing but how they spread
    gradients over time.

        >>> integrated_steps([(0.1, 0.5), (0.1, 0.5), (0.0, 0.9)])
        [0.1, 0.15000000000000002, 0.0]

    Args:
        records: Learning rate and momentum of every step, in order. For `CritMomMatched` and `CritMomCompensated` the
            learning rate is ``effective_lr`` of the param group.
        nesterov: Nesterov's momentum, whose step is ``lr_t (1 + mu_t S_t)``.
        averaged: Momentum is a running average with corrected bias (Adam): the step is ``lr_t`` whatever the momentum.

    Returns:
        The integrated step of each record.

    Raises:
        ValueError: If both forms are requested, or a momentum lies outside [0, 1].
    """
    if nesterov and averaged:
        raise ValueError("A step is either Nesterov's or that of a running average: pass one of nesterov and averaged.")
    steps, velocity = [], 0.0
    for lr, momentum in records:
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}.")
        velocity = momentum * velocity + 1.0
        steps.append(lr * (1.0 if averaged else 1.0 + momentum * velocity if nesterov else velocity))
    return steps


def mean_integrated_step(
    records: Iterable[tuple[float, float]], *, nesterov: bool = False, averaged: bool = False
) -> float:
    """The mean of `integrated_steps` over a run, which has the same arguments.

    Raises:
        ValueError: As `integrated_steps`, and if there are no records.
    """
    steps = integrated_steps(records, nesterov=nesterov, averaged=averaged)
    if not steps:
        raise ValueError("A run without steps has no mean step: pass the learning rate and momentum of its steps.")
    return math.fsum(steps) / len(steps)


def mean_weight_decay_shrinkage(
    records: Iterable[tuple[float, float]],
    weight_decay: float,
    *,
    nesterov: bool = False,
    averaged: bool = False,
    decoupled: bool = False,
) -> float:
    """The share by which weight decay shrinks the weights in a step, in the mean over a run.

    L2 weight decay is part of the gradient, so it shrinks by ``weight_decay`` times the integrated step; decoupled
    decay by ``weight_decay * lr`` (AdamW). Between optimizers that adapt the step to the gradient's size the coupled
    form does not compare.

    Args:
        records: As for `integrated_steps`.
        weight_decay: Its coefficient.
        nesterov: As for `integrated_steps`.
        averaged: As for `integrated_steps`.
        decoupled: Whether the decay is decoupled from the gradient.

    Returns:
        The shrinkage, per step.

    Raises:
        ValueError: As `mean_integrated_step`.
    """
    form = {"averaged": True} if decoupled else {"nesterov": nesterov, "averaged": averaged}
    return weight_decay * mean_integrated_step(records, **form)
