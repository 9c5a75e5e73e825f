"""Claims about which runs ``--measure_curvature`` gives a callback of its own."""

import pytest

from hf_critmom.experiments.comparison.arms.selection import get_arms
from hf_critmom.experiments.comparison.running.curvature import curvature_callback


@pytest.mark.parametrize(
    ("arm", "own"),
    [
        ("constant", True),
        ("critmom_qhm", True),
        ("critmom_qhm_auto", False),
        ("critmom_qhm[curvature=AUTO]", False),
        ("critmom_qhm[curvature=auto,nu=0.5]", True),
    ],
)
def test_an_arm_whose_optimizer_has_it_measured_gets_no_second_callback(arm: str, own: bool) -> None:
    (chosen,) = get_arms([arm]).values()
    assert (curvature_callback(chosen) is not None) == own
