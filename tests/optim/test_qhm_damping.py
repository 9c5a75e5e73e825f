"""Claims about critical damping by the immediate weight, and about the curvature that it takes."""

import itertools
import math
import warnings

import mpmath
import numpy as np
import pytest
import torch
from helpers.optimizer_runs import any_implementation, give_gradients, parameters

from hf_critmom import CritMomQHM
from hf_critmom.damping import critical_nu, damping_ratio, damping_regime
from hf_critmom.optim.options import DEFAULT_QHM_CURVATURE
from hf_critmom.optim.qhm import set_measured_curvature

# --- Critical damping -----------------------------------------------------------------------------------------------


def roots(momentum, nu, lr, curvature):
    """Eigenvalues of one step on a quadratic, from the step itself."""
    direct = (1.0 - nu) / (1.0 - momentum)
    velocity = [momentum, curvature]
    position = [-lr * nu * velocity[0], 1.0 - lr * nu * velocity[1] - lr * direct * curvature]
    return np.linalg.eigvals(np.array([velocity, position]))


CASES = [
    (momentum, lr, curvature)
    for momentum in (0.5, 0.9, 0.99)
    for lr, curvature in ((0.01, 10.0), (0.1, 3.0), (0.02, 40.0), (0.3, 2.0), (1e-4, 300.0))
]


@pytest.mark.parametrize(("momentum", "lr", "curvature"), CASES)
def test_the_critical_weight_gives_the_characteristic_polynomial_a_double_root(momentum, lr, curvature):
    nu = critical_nu(momentum, lr, curvature=curvature)
    assert 0.0 <= nu <= 1.0
    found = roots(momentum, nu, lr, curvature)
    if lr * curvature <= (1.0 - momentum) ** 2:
        assert nu == 0.0
        assert np.allclose(found.imag, 0.0)
        return
    assert np.abs(found - (1.0 - math.sqrt(lr * curvature))).max() < 1e-6  # a double root costs half of the digits
    assert damping_ratio(momentum, lr, curvature=curvature, nu=nu) == pytest.approx(1.0, abs=1e-6)
    assert damping_regime(momentum, lr, curvature=curvature, nu=nu) == "critical"


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("nu", [0.0, 0.3, 0.9, 1.0])
def test_the_damping_ratio_tells_whether_a_step_oscillates_and_whether_it_converges(momentum, nu):
    for curvature in np.geomspace(1e-3, 3e3, 120):
        lr = 0.01
        found = roots(momentum, nu, lr, curvature)
        oscillates = (np.abs(found.imag) > 1e-9).any() or (found.real < -1e-12).any()
        ratio = damping_ratio(momentum, lr, curvature=curvature, nu=nu)
        if abs(ratio - 1.0) > 1e-5:
            assert (ratio < 1.0) == oscillates
        assert (ratio > 0.0) == (np.abs(found).max() < 1.0)


def test_the_ratio_of_a_heavy_ball_is_about_that_of_the_rules():
    for curvature in (1.0, 5.0, 20.0):
        exact = damping_ratio(0.9, 0.001, curvature=curvature, nu=1.0)
        assert exact == pytest.approx(damping_ratio(0.9, 0.001, curvature=curvature, rule="exponential"), rel=0.03)


def ratio_in_many_digits(momentum, lr, curvature, nu):
    """The reference twin of the damping ratio, from the roots themselves."""
    with mpmath.workdps(80):
        momentum, force, nu = mpmath.mpf(momentum), mpmath.mpf(lr) * mpmath.mpf(curvature), mpmath.mpf(nu)
        direct = (1 - nu) / (1 - momentum)
        half, determinant = (1 + momentum - force * (nu + direct)) / 2, momentum * (1 - force * direct)
        root = mpmath.sqrt(half**2 - determinant)
        if root.imag:
            decay = -mpmath.log(half + root)
            return float(decay.real / abs(decay))
        first, second = half + root, half - root
        if second < 0:
            decay = -mpmath.log(max(-first, -second))
            return float(decay / mpmath.hypot(decay, mpmath.pi))
        slow, fast = -mpmath.log(first), -mpmath.log(second)
        return float((slow + fast) / (2 * mpmath.sqrt(slow * fast)))


@pytest.mark.parametrize("momentum", [1e-3, 0.5, 0.9, 0.9999, 1.0 - 1e-12])
def test_the_damping_ratio_keeps_its_digits_where_a_step_moves_little(momentum):
    for nu, lr, curvature in itertools.product(
        (0.0, 0.7, momentum, 1.0), (1e-6, 1e-3, 0.1), np.geomspace(1e-18, 700.0)
    ):
        expected = ratio_in_many_digits(momentum, lr, curvature, nu)
        assert damping_ratio(momentum, lr, curvature=curvature, nu=nu) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_curvature_too_small_to_be_felt_gives_an_infinite_ratio_and_no_error():
    assert damping_ratio(0.9, 1e-200, curvature=1e-200, nu=0.9) == math.inf
    for scale in np.geomspace(1e-16, 1e-13, 300):
        assert damping_ratio(0.9, 0.001, curvature=scale, nu=0.9) == pytest.approx(
            damping_ratio(0.9, 0.001, curvature=scale, nu=0.0), rel=0.05
        )


def test_the_interval_of_curvatures_that_oscillate_ends_at_the_one_that_is_damped():
    momentum, lr, curvature = 0.9, 0.01, 30.0
    nu = critical_nu(momentum, lr, curvature=curvature)
    lower = (1.0 - momentum) ** 2 / (1.0 + math.sqrt(nu * momentum)) ** 2 / lr
    regimes = [
        damping_regime(momentum, lr, curvature=k, nu=nu) for k in (0.99 * lower, 1.01 * lower, 0.99 * 30.0, 1.01 * 30.0)
    ]
    assert regimes == ["overdamped", "underdamped", "underdamped", "overdamped"]


@any_implementation
def test_on_a_quadratic_it_falls_by_the_double_root_and_crosses_the_minimum_once_at_most(implementation):
    lr, curvature = 0.01, 16.0
    p = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = CritMomQHM([p], lr=lr, curvature=curvature, **implementation)
    path = []
    for _ in range(40):
        p.grad = curvature * p.detach()
        optimizer.step()
        path.append(p.item())
    assert sum(earlier * later < 0.0 for earlier, later in itertools.pairwise(path)) <= 1
    fit = np.array(path) / (1.0 - math.sqrt(lr * curvature)) ** np.arange(1, 41)  # |x_n| is (a + b n) root^n
    assert np.diff(fit) == pytest.approx(fit[1] - fit[0], rel=1e-6)


def test_below_the_curvature_that_oscillates_the_weight_is_zero_and_at_lr_one_over_k_it_is_nesterovs():
    assert critical_nu(0.9, 0.001, curvature=9.9) == 0.0
    assert critical_nu(0.9, 0.1, curvature=10.0) == pytest.approx(0.9)
    assert critical_nu(0.9, 4.0, curvature=1.0) == 1.0
    assert critical_nu(0.9, 0.0) == 0.0
    assert critical_nu(0.0, 0.5) == 0.0


# --- Automatic curvature --------------------------------------------------------------------------------------------


def test_automatic_curvature_is_a_number_from_the_start_and_the_measured_one_counts():
    params = parameters()
    optimizer = CritMomQHM([{"params": params[:1]}, {"params": params[1:], "curvature": 5.0}], lr=0.1, curvature="auto")
    assert optimizer.param_groups[0]["curvature"] == DEFAULT_QHM_CURVATURE
    assert set_measured_curvature(optimizer.param_groups, 42.0)
    give_gradients(params, torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    assert [group["curvature"] for group in optimizer.param_groups] == [42.0, 5.0]
    assert optimizer.param_groups[0]["nu"] == critical_nu(0.9, 0.1, curvature=42.0)


def test_a_given_curvature_stays_given_in_a_run_that_sgd_began():
    params = parameters()
    groups = [{"params": params[:1]}, {"params": params[1:]}]
    sgd = torch.optim.SGD([dict(group) for group in groups], lr=0.1, momentum=0.9)
    groups[1]["curvature"] = 5.0
    optimizer = CritMomQHM(groups, lr=0.1, curvature="auto")
    optimizer.load_state_dict(sgd.state_dict())
    set_measured_curvature(optimizer.param_groups, 42.0)
    assert [group["curvature"] for group in optimizer.param_groups] == [42.0, 5.0]


def test_only_groups_that_asked_for_it_take_a_measured_curvature():
    given = CritMomQHM(parameters(), lr=0.1, curvature=3.0)
    assert not set_measured_curvature(given.param_groups, 42.0)
    assert not set_measured_curvature(torch.optim.SGD(parameters(), lr=0.1).param_groups, 42.0)
    assert given.param_groups[0]["curvature"] == 3.0


@pytest.mark.parametrize("options", [{"curvature": 5.0}, {"curvature": "auto"}, {"nu": 0.3}])
@pytest.mark.parametrize("measured", [False, True])
def test_an_optimizer_made_of_anothers_groups_has_their_options(options, measured):
    first = CritMomQHM(parameters(), lr=0.1, **options)
    if measured:
        set_measured_curvature(first.param_groups, 42.0)
    second = CritMomQHM(first.param_groups, lr=0.2)
    third = CritMomQHM(parameters(), lr=0.2)
    third.add_param_group({**first.param_groups[0], "params": parameters()})
    for group in (second.param_groups[0], third.param_groups[1]):
        for name in ("fixed_nu", "nu", "curvature", "curvature_source"):
            assert group[name] == first.param_groups[0][name]


@pytest.mark.parametrize("curvature", [0.0, -1.0, math.nan, math.inf])
def test_a_measured_curvature_that_damps_nothing_is_refused(curvature):
    optimizer = CritMomQHM(parameters(), lr=0.1, curvature="auto")
    with pytest.raises(ValueError, match="curvature"):
        set_measured_curvature(optimizer.param_groups, curvature)
    assert optimizer.param_groups[0]["curvature"] == DEFAULT_QHM_CURVATURE


def test_a_step_with_an_assumed_curvature_says_so():
    params = parameters()
    optimizer = CritMomQHM(params, lr=0.1, curvature="auto")
    give_gradients(params, torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="CurvatureCallback"):
        optimizer.step()
