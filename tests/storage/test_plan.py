"""Claims about plans on disk: the first launch stores one, later ones are reconciled with it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_critmom.errors import InputError
from hf_critmom.storage.digest import weights_digest
from hf_critmom.storage.files import write_json
from hf_critmom.storage.plan import PlanFile, differences


class SampleError(InputError):
    pass


PLAN = PlanFile("sample.json", "sample", SampleError)


def keep(stored: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
    return stored


def test_the_first_plan_is_stored_and_followed(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert PLAN.load_or_create(folder, {"seeds": 3}, keep, write=True) == {"seeds": 3}
    assert PLAN.load_or_create(folder, {"seeds": 4}, keep, write=True) == {"seeds": 3} == PLAN.read(folder)


def test_a_plan_may_grow(tmp_path: Path) -> None:
    PLAN.load_or_create(tmp_path, {"seeds": 3}, keep, write=True)
    PLAN.load_or_create(tmp_path, {"seeds": 4}, lambda stored, current: current, write=True)
    assert PLAN.read(tmp_path) == {"seeds": 4}


def test_a_process_that_does_not_write_changes_nothing(tmp_path: Path) -> None:
    assert PLAN.load_or_create(tmp_path / "new", {"seeds": 3}, keep, write=False) == {"seeds": 3}
    assert not (tmp_path / "new").exists()


def test_launches_that_start_together_agree_on_one_plan(tmp_path: Path) -> None:
    found = []
    threads = [
        threading.Thread(
            target=lambda n=n: found.append(PLAN.load_or_create(tmp_path / "x", {"n": n}, keep, write=True))
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(plan == found[0] for plan in found)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": 1}}'])
def test_a_damaged_plan_is_one_sentence_that_names_the_file(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "sample.json").write_bytes(damage)
    with pytest.raises(SampleError, match=r"sample\.json is not the plan of a sample .*choose another") as caught:
        PLAN.load_or_create(tmp_path, {}, keep, write=True)
    assert "\n" not in str(caught.value)


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SampleError, match="holds files, but no sample"):
        PLAN.load_or_create(tmp_path, {}, keep, write=True)


def test_differences_name_inner_values_and_what_is_missing() -> None:
    stored, current = {"a": {"b": 1, "c": [1]}}, {"a": {"b": 2, "c": [1], "d": None}}
    assert differences("plan", stored, current) == ["plan.a.b: 1 and 2", "plan.a.d: - and None"]
    assert differences("plan", stored, stored) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_digest_tells_weights_shapes_and_dtypes_apart(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    one = torch.nn.Linear(4, 2).to(dtype)
    other = torch.nn.Linear(4, 2).to(dtype)
    digests = {weights_digest(one), weights_digest(other), weights_digest(one.double())}
    assert len(digests) == 3
    copy = torch.nn.Linear(4, 2).to(torch.float64)
    copy.load_state_dict(one.state_dict())
    assert weights_digest(copy) == weights_digest(one)


def test_a_launch_of_another_kind_that_was_faster_keeps_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def waited_for(folder: Path, name: str) -> Iterator[None]:
        write_json(folder / "other.json", {"its": "own"})
        yield

    monkeypatch.setattr("hf_critmom.storage.plan.locked", waited_for)
    with pytest.raises(SampleError, match="holds files, but no sample"):
        PLAN.load_or_create(tmp_path / "x", {"seeds": 3}, keep, write=True)
    assert not PLAN.exists(tmp_path / "x")
