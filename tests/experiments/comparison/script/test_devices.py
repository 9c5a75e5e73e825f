"""Claims about the GPUs that runs see where several are made at the same time; none is needed for them."""

import pytest
import torch

from hf_critmom.experiments.comparison.script.devices import VISIBLE, Devices, visible_devices
from hf_critmom.storage.workers import run_in_workers


def seen(devices: Devices) -> dict[int, str | None]:
    """What a run of each worker sees."""
    found: dict[int, str | None] = {}
    run_in_workers(
        lambda send: send("seen", devices.environment().get(VISIBLE)),
        workers=devices.workers,
        on_event=lambda worker, kind, names: found.update({worker: names}),
    )
    return found


def test_each_worker_has_its_own_gpus() -> None:
    four = ("0", "1", "4", "GPU-5")
    assert seen(Devices(3, False, four)) == {0: "0", 1: "1", 2: "4"}
    assert seen(Devices(2, True, four)) == {0: "0,1", 1: "4,GPU-5"}
    assert seen(Devices(3, False, ("6", "7"))) == {0: "6", 1: "7", 2: "6"}
    assert seen(Devices(2, False, ())) == {0: None, 1: None}


def test_a_dry_run_sees_the_first_workers_gpus_and_a_single_worker_sees_all() -> None:
    assert Devices(2, True, ("0", "1", "2", "3")).environment() == {VISIBLE: "0,1"}
    assert Devices(1, False, ("0", "1")).environment() == {}


def test_gpus_keep_the_names_that_the_user_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv(VISIBLE, raising=False)
    assert visible_devices() == ("0", "1")
    monkeypatch.setenv(VISIBLE, "3, 1")
    assert visible_devices() == ("3", "1")
