"""The top eigenvalue of a Hessian by the Lanczos recurrence, in the memory of two vectors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch

from hf_critmom.curvature.errors import CurvatureError
from hf_critmom.curvature.products import Hessian, MethodChangedError
from hf_critmom.curvature.vectors import dot, norm, random_unit_like

_LEAST_ITERATIONS = 8
"""A residual of fewer iterations may be small by chance: of an eigenvalue that is not the top one."""

_ROUNDING = 10.0
"""Error of a product with the Hessian by rounding, in machine epsilons of the eigenvalue of largest magnitude."""

_LARGEST_CHANGE = 0.05
"""Share by which half the step of a difference may change an eigenvalue."""


@dataclass(frozen=True)
class Eigenvalue:
    """The largest eigenvalue of a Hessian.

    Attributes:
        value: The eigenvalue, the largest with its sign.
        residual: Length of ``H v - value * v`` for its unit vector ``v``: there is an eigenvalue within this distance.
        iterations: Products with the Hessian that it took.
        converged: Whether the residual is within the requested tolerance.
        lowest: The least eigenvalue as far as the same products show it, an upper bound of the true one.
    """

    value: float
    residual: float
    iterations: int
    converged: bool
    lowest: float


def top_eigenvalue(
    hessian: Hessian, *, tolerance: float = 0.02, max_iterations: int = 100, seed: int = 0
) -> Eigenvalue:
    """Largest eigenvalue of a Hessian, from a random vector.

    Lanczos' recurrence without stored basis (Golub and Van Loan, Matrix Computations, 10.1): what it loses for that,
    orthogonality to directions that have converged, makes copies of eigenvalues and leaves the largest as it is (Paige
    1980, Linear Algebra and its Applications 34:235). Two vectors are held beside those of the products.

    Args:
        hessian: The linear map.
        tolerance: Largest residual, as a share of the eigenvalue.
        max_iterations: Most products; where the residual is larger after them, ``converged`` is false.
        seed: Seed of the random vector.

    Returns:
        The eigenvalue. With central differences it is found again with half the step: the difference is added to the
        residual, since differences of a network with kinks can have eigenvalues that its loss has not.

    Raises:
        CurvatureError: If a product is not finite, or an argument not positive.
    """
    check_tolerance(tolerance)
    if not isinstance(max_iterations, int) or max_iterations < 1:
        raise CurvatureError(f"max_iterations={max_iterations!r} is not valid: expected a whole number of at least 1.")
    try:
        found = _lanczos(hessian, tolerance, max_iterations, seed)
    except MethodChangedError:
        found = None
    if found is None:  # outside of the handler, which keeps the vectors of the recurrence that failed
        found = _lanczos(hessian, tolerance, max_iterations, seed)
    if hessian.method == "central_differences":
        hessian.relative_step /= 2.0
        again = _lanczos(hessian, tolerance, max_iterations, seed)
        hessian.relative_step *= 2.0
        change = abs(again.value - found.value)
        sure = again.converged and change <= max(tolerance, _LARGEST_CHANGE) * abs(again.value)
        iterations = found.iterations + again.iterations
        found = Eigenvalue(again.value, again.residual + change, iterations, sure, again.lowest)
    return found


def check_tolerance(tolerance: Any) -> None:
    """Refuses a tolerance that is no share.

    Raises:
        CurvatureError: If it is not a number between 0 and 1.
    """
    if not (isinstance(tolerance, Real) and 0.0 < float(tolerance) < 1.0):
        raise CurvatureError(f"tolerance={tolerance!r} is not valid: expected a number between 0 and 1.")


def _lanczos(hessian: Hessian, tolerance: float, max_iterations: int, seed: int) -> Eigenvalue:
    other = [torch.zeros_like(part) for part in hessian.objective.parts()]
    rounding = _ROUNDING * max(torch.finfo(part.dtype).eps for part in other)
    current = random_unit_like(other, seed)
    diagonal: list[float] = []
    beside: list[float] = []
    found = None
    for iteration in range(1, max_iterations + 1):
        if beside:
            torch._foreach_mul_(other, -beside[-1])
        with torch.no_grad():
            hessian.add_product(current, other)
            diagonal.append(dot(current, other))
            torch._foreach_add_(other, current, alpha=-diagonal[-1])
            length = norm(other)
        if not (math.isfinite(diagonal[-1]) and math.isfinite(length)):
            raise CurvatureError(
                "A product with the Hessian is not finite: the loss has no curvature at these parameters, or the "
                "training diverged."
            )
        before, found = found, _ritz(diagonal, beside, length, tolerance, rounding)
        if length <= rounding * max(abs(found.value), abs(found.lowest)):
            return found
        settled = before is not None and abs(found.value - before.value) <= tolerance * abs(found.value)
        if found.converged and settled and iteration >= _LEAST_ITERATIONS:
            return found
        beside.append(length)
        torch._foreach_div_(other, length)
        current, other = other, current
    assert found is not None
    return found


def _ritz(
    diagonal: Sequence[float], beside: Sequence[float], length: float, tolerance: float, rounding: float
) -> Eigenvalue:
    """Both ends of the spectrum as the tridiagonal matrix of the recurrence estimates them.

    The residual is at least what the rounding of a product may hide, which counts where the top eigenvalue is tiny
    beside a negative one.
    """
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    top = float(values[-1])
    residual = max(abs(length * vectors[-1, -1]), rounding * max(abs(top), abs(float(values[0]))))
    return Eigenvalue(top, float(residual), len(diagonal), bool(residual <= tolerance * abs(top)), float(values[0]))
