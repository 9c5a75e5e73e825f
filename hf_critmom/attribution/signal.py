"""Shares of the groups in the gradient of the population, without the noise of the examples at hand."""

import math
from collections.abc import Sequence

import numpy as np

from hf_critmom.attribution.bootstrap import LEAST_UNITS


def signal_shares(
    units: Sequence[tuple[int, np.ndarray]], parts: Sequence[slice], norms: np.ndarray
) -> list[tuple[float, float] | None]:
    """Estimates the groups' shares in the squared norm of the population's mean gradient.

    The squared norm of a mean over n examples is on average that of the population's mean plus the variance of an
    example by n: a share holds noise, the more the smaller the gradient itself is, as on examples that a network has
    learned. Products of different units are free of it. With units of n_i examples whose gradients add up to u_i,

        (|sum u_i|² - sum |u_i|²) / ((sum n_i)² - sum n_i²)

    estimates the squared norm without bias, a U-statistic (W. Hoeffding, Annals of Mathematical Statistics 19, 1948).
    Errors of the logarithm of a share are from the jackknife over units, as Arvesen justified it for functions of
    U-statistics (J. N. Arvesen, Annals of Mathematical Statistics 40, 1969).

    Args:
        units: Number of items of each unit, and the sum of their gradients (or a sketch of it), (values,).
        parts: Which of the values belong to each group.
        norms: Norm of the summed or mean gradient of each group, (groups,), which is exact where units are sketches.

    Returns:
        Share and standard error of its logarithm of each group; None where there are fewer than `LEAST_UNITS` units, or
        the estimate is not positive with all units and without any one of them: noise hides the group's gradient.
    """
    count = len(units)
    if count < LEAST_UNITS:
        return [None] * len(parts)
    items = np.array([number for number, _ in units], dtype=float)
    pairs = [items.sum() ** 2 - (items**2).sum()]  # of different examples: with all units, then without each of them
    pairs += list((items.sum() - items) ** 2 - ((items**2).sum() - items**2))
    vectors = np.stack([vector for _, vector in units])
    squares = np.empty((count + 1, len(parts)))
    for group, (part, norm) in enumerate(zip(parts, norms, strict=True)):
        products = vectors[:, part] @ vectors[:, part].T
        whole, own = products.sum(), np.diag(products)
        exact = norm**2 / whole if whole > 0.0 else 0.0
        between = whole - own.sum()
        squares[:, group] = exact * np.array([between, *(between - 2.0 * (products.sum(axis=1) - own))]) / pairs
    total = squares.sum(axis=1)
    found: list[tuple[float, float] | None] = []
    for own in squares.T:
        if not (own > 0.0).all() or not (total > 0.0).all():
            found.append(None)
            continue
        logs = np.log(own / total)
        error = math.sqrt((count - 1) / count * ((logs[1:] - logs[1:].mean()) ** 2).sum())
        found.append((math.exp(logs[0]), error))
    return found
