"""Claims about threads: more are taken where a step gains from them what another worker would bring, and only there."""

import pytest
import torch

from hf_critmom.storage.threads import choose_threads, computing_with


@pytest.mark.parametrize(
    ("seconds", "cores", "expected"),
    [
        ({1: 4.0, 2: 2.1, 4: 1.2}, 4, 2),  # 1.9 and 1.75 times as fast
        ({1: 4.0, 2: 2.0, 4: 1.0}, 4, 4),
        ({1: 4.0, 2: 2.0, 4: 1.0}, 3, 2),
        ({1: 4.0, 2: 3.0}, 2, 1),
        ({1: 0.1}, 8, 1),  # tiny kernels are not even measured with more
        ({}, 1, 1),
    ],
)
def test_threads_are_doubled_while_a_step_gains(seconds: dict[int, float], cores: int, expected: int) -> None:
    measured = choose_threads(lambda: seconds[torch.get_num_threads()], cores=cores)
    assert measured == expected


def test_what_is_known_is_not_measured_again() -> None:
    def measure() -> float:
        assert torch.get_num_threads() == 2
        return 0.5

    assert choose_threads(measure, 1.0, cores=2) == 2


def test_threads_are_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    with computing_with(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
