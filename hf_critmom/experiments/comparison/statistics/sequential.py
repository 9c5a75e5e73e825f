"""Group-sequential looks at a growing comparison: how small a p-value must be at each look.

Someone who looks at the results after every seed, and stops as soon as p is below 5 %, is wrong in far more than 5 % of
comparisons. The remedy is to spend the 5 % over the looks (Lan and DeMets, Biometrika 70 (1983) 659): a spending
function of the share of seeds says how much of it may be spent until then, and the level of each look follows. Seeds
stand for information.

Of `alpha`, after n seeds of a plan whose last planned look is at N seeds, may be spent:

* up to N, the share 1 - `RESERVE` by O'Brien and Fleming's boundary (Lan and DeMets' form, two-sided):
  2 - 2 Phi(z / sqrt(n / N)), almost nothing at first and most of it at the end;
* after N, if seeds are added by hand to a completed plan, the reserve: `RESERVE` (1 - N / n) more, which never runs
  out, however often seeds are added.

A comparison of fixed size is a plan whose only planned look is at N: it spends 1 - `RESERVE` of its 5 % there. A look
at fewer seeds than those of the first planned look (an unfinished comparison) spends nothing and decides nothing. From
the first look on, every seed is one more look, whether somebody looked or not, so that a verdict depends on the results
alone, and not on who read them when. Each claim has its own looks, at the first seeds of the plan that both of its arms
have: seeds that are added to some arms only are looks at the claims about these.

The levels are exact for paired t tests of normal differences. (The usual levels, for Brownian motion, give a type I
error of 5.6 % between 3 and 10 seeds, because the standard deviation is re-estimated at each look.) Let S be the sum,
and Q the sum of squares, of the first n differences, and W = S / sqrt(Q). Then t = sqrt(n - 1) tan(theta), where
sin(theta) = W / sqrt(n). Under the null hypothesis, Q is independent of W and its past (it is the squared length of a
vector whose direction is uniform), so that for one more difference y, tan(psi) = y / sqrt(Q) is independent of them and
psi has a density proportional to cos(psi)^(n - 1): W becomes W cos(psi) + sin(psi). So W is a Markov chain, and the
levels follow by recursive integration as for Brownian motion (Armitage, McPherson and Rowe, J. R. Statist. Soc. A 132
(1969) 235). `scripts/simulate_verdicts.py` checks them with the noise of real runs.

Several claims share `alpha` by weight, and the share of a decided claim passes to the others: the graphical procedure
of Maurer and Bretz (Statistics in Biopharmaceutical Research 5 (2013) 311) with transitions proportional to the
weights, which is Holm's weighted procedure at every look. It keeps the probability of deciding any true null
hypothesis, at any look, below `alpha`, whatever the dependence between claims.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import stdtr

ALPHA = 0.05
"""Probability of a wrong difference over all claims and looks of a report, and that of a wrong "no difference"."""

RESERVE = 0.02
"""Share of `ALPHA` kept for seeds that are added by hand after the last planned look."""

_ANGLES = 401  # points of the numerical integration over theta
_TURNS = 160  # and over psi


@dataclass(frozen=True)
class Looks:
    """When a comparison is looked at, by number of seeds.

    Attributes:
        first: Number of seeds at the first planned look.
        last: Number of seeds at the last planned look.
        made: Numbers of seeds at the looks made so far, in rising order; the last one is the present look.
    """

    first: int
    last: int
    made: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(f"The first planned look ({self.first} seeds) is after the last one ({self.last}).")
        if list(self.made) != sorted(set(self.made)):
            raise ValueError(f"Looks must have rising numbers of seeds, got {list(self.made)}.")

    @classmethod
    def fixed(cls, seeds: int) -> "Looks":
        """The only look at a comparison of fixed size that is complete."""
        return cls(seeds, seeds, (seeds,))

    def until(self, seeds: int) -> "Looks":
        """Those of the looks that a claim has whose arms have this number of seeds in common."""
        return replace(self, made=tuple(look for look in self.made if look <= seeds))

    @property
    def counted(self) -> tuple[int, ...]:
        """The looks that can decide a claim: those from the first planned one on."""
        return tuple(seeds for seeds in self.made if seeds >= self.first)

    @property
    def plain(self) -> bool:
        """Whether there is only one planned look, and no other was made: a comparison of fixed size."""
        return self.first == self.last and self.counted in ((), (self.last,))


def spent(seeds: int, last: int, alpha: float = ALPHA) -> float:
    """The part of `alpha` that may be spent until a look, two-sided.

    Args:
        seeds: Number of seeds at the look.
        last: Number of seeds at the last planned look.
        alpha: Error probability over all looks.
    """
    planned = (1.0 - RESERVE) * alpha
    if seeds >= last:
        return planned + RESERVE * alpha * (1.0 - last / seeds)
    return 2.0 * float(stats.norm.sf(stats.norm.isf(planned / 2.0) / math.sqrt(seeds / last)))


def interval_level(looks: Looks, confidence: float) -> float:
    """The level of a claim's interval at the present look.

    In a comparison of fixed size it is `confidence`. At a look at a growing comparison, the interval is wider, as the
    look's level is smaller: the intervals of all looks together contain the true value with that confidence (repeated
    confidence intervals, Jennison and Turnbull, J. R. Statist. Soc. B 51 (1989) 305).

    Args:
        looks: The looks.
        confidence: Level of a single interval.
    """
    if looks.plain or not looks.counted:
        return confidence
    return 1.0 - nominal_levels(looks.counted, looks.last, 1.0 - confidence)[-1]


@cache
def nominal_levels(made: tuple[int, ...], last: int, alpha: float = ALPHA) -> tuple[float, ...]:
    """The two-sided level of each look that spends what `spent` allows; 0 at a look with a single seed.

    Args:
        made: Numbers of seeds at the looks, in rising order.
        last: Number of seeds at the last planned look.
        alpha: Error probability over all looks.
    """
    levels: list[float] = []
    before, seeds = 0.0, 1
    angles, masses = np.zeros(0), np.zeros(0)  # distribution of theta for comparisons that no look has decided yet
    for look in made:
        if look < 2:
            levels.append(0.0)
            continue
        total = spent(look, last, alpha)
        spend = total - before
        if not len(angles):
            bound = math.atan(float(stats.t.isf(spend / 2.0, look - 1)) / math.sqrt(look - 1.0))
            angles = np.linspace(-bound, bound, _ANGLES)
            masses = np.cos(angles) ** (look - 2)
            masses *= (1.0 - spend) / masses.sum()
        else:
            while seeds < look - 1:  # seeds between two looks
                angles, masses = _add_seed(angles, masses, seeds, math.pi / 2.0)
                seeds += 1
            bound = _bound(angles, masses, seeds, spend)
            angles, masses = _add_seed(angles, masses, seeds, bound)
        levels.append(2.0 * float(stats.t.sf(math.sqrt(look - 1.0) * math.tan(bound), look - 1)))
        before, seeds = total, look
    return tuple(levels)


def _bound(angles: np.ndarray, masses: np.ndarray, seeds: int, spend: float) -> float:
    """The angle beyond which, on both sides together, one more seed moves a mass of `spend`."""
    sums = math.sqrt(seeds) * np.sin(angles)
    lengths, own = np.sqrt(sums**2 + 1.0), np.arctan(sums)

    def excess(bound: float) -> float:
        # By symmetry the mass beyond -bound is the same. W' > c if psi lies between two angles.
        c = math.sqrt(seeds + 1.0) * math.sin(bound)
        turn = np.arcsin(np.minimum(c / lengths, 1.0))
        first, second = (np.minimum(psi - own, math.pi / 2.0) for psi in (turn, math.pi - turn))
        beyond = np.where(c < lengths, _turned_further(first, seeds) - _turned_further(second, seeds), 0.0)
        return 2.0 * float(beyond @ masses) - spend

    if excess(math.pi / 2.0) >= 0.0:  # rounding is larger than what may be spent
        return math.pi / 2.0
    return float(brentq(excess, 0.0, math.pi / 2.0, xtol=1e-12))


def _turned_further(psi: np.ndarray, seeds: int) -> np.ndarray:
    """Probability that one more difference turns the vector of the first `seeds` differences by more than psi."""
    return stdtr(seeds, -math.sqrt(seeds) * np.tan(psi))


def _add_seed(angles: np.ndarray, masses: np.ndarray, seeds: int, bound: float) -> tuple[np.ndarray, np.ndarray]:
    """Angles and masses after one more seed, restricted to the bound."""
    turns, weights = _turns(seeds)
    sums = math.sqrt(seeds) * np.sin(angles)[:, None] * np.cos(turns) + np.sin(turns)
    reached = np.arcsin(np.clip(sums / math.sqrt(seeds + 1.0), -1.0, 1.0))
    inside = np.abs(reached) <= bound
    place = (reached[inside] + bound) / (2.0 * bound) * (_ANGLES - 1)
    mass = (masses[:, None] * weights)[inside]
    low = np.minimum(place.astype(int), _ANGLES - 2)
    found = np.bincount(low, mass * (low + 1 - place), _ANGLES) + np.bincount(low + 1, mass * (place - low), _ANGLES)
    return np.linspace(-bound, bound, _ANGLES), found


@cache
def _turns(seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights for psi, whose density is proportional to cos(psi)^(n - 1)."""
    nodes, weights = np.polynomial.legendre.leggauss(_TURNS)
    turns = nodes * math.pi / 2.0
    weights = weights * np.cos(turns) ** (seeds - 1)
    return turns, weights / weights.sum()


def decide(
    p_values: np.ndarray, weights: Sequence[float], looks: Looks, alpha: float = ALPHA
) -> tuple[np.ndarray, np.ndarray]:
    """Which claims are decided at which look.

    Args:
        p_values: Two-sided p-values of shape (looks, claims, ...), one row per look in `looks.counted`; further axes
            are independent comparisons.
        weights: Share of `alpha` with which each claim starts; they sum to at most 1.
        looks: The looks.
        alpha: Probability of deciding any claim wrongly at any look.

    Returns:
        Index of the look at which each claim was decided, -1 if it was not, of shape (claims, ...); and the part of
        `alpha` that each claim may spend after the last look, of the same shape.
    """
    shape = p_values.shape[1:]
    decided = np.full(shape, -1)
    share = np.asarray(weights, dtype=float).reshape(-1, *(1,) * (len(shape) - 1))
    own = np.broadcast_to(share, shape)
    total = share.sum()
    for look in range(len(looks.counted)):
        while True:
            left = np.where(decided < 0, own, 0.0).sum(axis=0, keepdims=True)
            allowed = own * total / np.where(left > 0.0, left, 1.0)
            level = _levels_at(looks, look, np.round(allowed * alpha, 12))
            found = (decided < 0) & (p_values[look] <= level)
            if not found.any():
                break
            decided = np.where(found, look, decided)
    left = np.where(decided < 0, own, 0.0).sum(axis=0, keepdims=True)
    return decided, own * total / np.where(left > 0.0, left, 1.0) * alpha


def _levels_at(looks: Looks, look: int, alphas: np.ndarray) -> np.ndarray:
    """Level of one of the counted looks for each of these parts of alpha."""
    totals, places = np.unique(alphas, return_inverse=True)
    levels = [nominal_levels(looks.counted, looks.last, float(total))[look] if total > 0.0 else 0.0 for total in totals]
    return np.array(levels)[places].reshape(alphas.shape)
