"""Claims about connecting to Ray: shares of machines, and one sentence for whatever is missing."""

import importlib.util
import socket
from pathlib import Path
from typing import Any

import pytest

from hf_critmom.commands import main
from hf_critmom.engines import ray_cluster
from hf_critmom.engines.ray_cluster import Share

TINY = (
    *("compare", "--width", "2", "--max_train_samples", "64", "--max_eval_samples", "32", "--arms", "constant"),
    *("--use_cpu", "--num_seeds", "1", "--evaluations_per_epoch", "1", "--engine", "ray"),
)


@pytest.mark.parametrize(
    ("share", "resources", "number"),
    [
        (Share(1.0, 0.0), {"CPU": 16.0}, 16),
        (Share(3.0, 0.0), {"CPU": 16.0}, 5),
        (Share(0.1, 0.0), {"CPU": 1.0}, 10),
        (Share(1.0, 0.25), {"CPU": 16.0, "GPU": 2.0}, 8),
        (Share(4.0, 0.25), {"CPU": 16.0, "GPU": 2.0}, 4),
        (Share(1.0, 0.6), {"CPU": 16.0, "GPU": 3.0}, 3),  # a share lies on one GPU, so that 0.4 of each are left
        (Share(1.0, 2.0), {"CPU": 16.0, "GPU": 5.0}, 2),
        (Share(1.0, 1.0), {"CPU": 16.0}, 0),
        (Share(2.0, 0.0), {"CPU": 1.0}, 0),
    ],
)
def test_a_machine_has_room_for_as_many_runs_as_fit(share: Share, resources: dict[str, float], number: int) -> None:
    assert share.fits(resources) == number


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpus_per_run", "1.5"), "--gpus_per_run must be a share of one GPU"),
        (("--gpus_per_run", "0.5"), "--gpus_per_run 0.5 and --use_cpu contradict each other"),
        (("--cpus_per_run", "0"), "--cpus_per_run must be positive"),
        (("--engine", "slurm"), "--engine must be one of local, ray"),
        (("--engine", "local", "--ray_address", "auto"), "--ray_address applies only to --engine ray"),
    ],
)
def test_invalid_engine_flags_are_one_sentence(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused((*TINY, *words), said, tmp_path, capsys)


def test_a_ray_that_is_not_installed_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    assert_refused(TINY, "pip install 'ray>=", tmp_path, capsys)


def test_an_address_where_nothing_listens_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], without_connection: None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = (*TINY, "--ray_address", f"127.0.0.1:{port}")
    assert_refused(words, f"at --ray_address 127.0.0.1:{port} (Connection refused)", tmp_path, capsys)


def test_an_address_where_no_ray_answers_is_one_sentence_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], without_connection: None
) -> None:
    monkeypatch.setattr(ray_cluster, "SECONDS_TO_ANSWER", 3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = (*TINY, "--ray_address", f"127.0.0.1:{silent.getsockname()[1]}")
        assert_refused(words, "no Ray answered within 3 s", tmp_path, capsys)


@pytest.fixture
def without_connection() -> None:
    """Skips where there is no Ray."""
    pytest.importorskip("ray", minversion="2.50", reason="ray has no wheel for this Python")


def assert_refused(words: tuple[str, ...], said: str, tmp_path: Path, capsys: Any) -> None:
    assert main((*words, "--output_dir", str(tmp_path / "out"))) == 2
    sentence = capsys.readouterr().err
    assert said in sentence and sentence.count("\n") == 1 and not (tmp_path / "out").exists()
