"""Claims about threads: their number grows only while steps speed up as much as with another worker."""

import pytest
import torch

from hf_critmom.errors import InputError
from hf_critmom.storage import workers
from hf_critmom.storage.threads import choose_threads, torch_threads
from hf_critmom.storage.workers import resolve_workers


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


def test_a_known_measurement_is_not_repeated() -> None:
    def measure() -> float:
        assert torch.get_num_threads() == 2
        return 0.5

    assert choose_threads(measure, 1.0, cores=2) == 2


@pytest.mark.parametrize(("wanted", "threads"), [(0, 1), (-3, 1), (10**9, 1), (None, 0), (2, 10**9)])
def test_numbers_out_of_range_are_refused(wanted: int | None, threads: int) -> None:
    with pytest.raises(InputError, match="must be at least 1 and at most 1,000, got"):
        resolve_workers(wanted, threads, 4)


def test_there_are_never_more_workers_than_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: 8)
    assert [resolve_workers(None, 1), resolve_workers(None, 3), resolve_workers(None, 16)] == [8, 2, 1]
    assert [resolve_workers(None, 1, 3), resolve_workers(5, 1, 3), resolve_workers(2, 4, 3)] == [3, 3, 2]


def test_the_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
