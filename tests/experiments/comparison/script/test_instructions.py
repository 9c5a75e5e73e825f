"""Claims about how the processes of a script's run know that the command has ended."""

import dataclasses
import json
import subprocess
import sys

import psutil
import pytest

from hf_critmom.experiments.comparison.script.instructions import Process

PROGRAM = """
import dataclasses, json
from hf_critmom.experiments.comparison.script.instructions import Process
print(json.dumps(dataclasses.asdict(Process.this())), flush=True)
input()
"""


def test_a_process_has_ended_when_it_is_gone_or_another_one_has_its_id() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        process = Process(**json.loads(child.stdout.readline()))
        assert process.pid == child.pid and not process.has_ended()
        assert dataclasses.replace(process, started=process.started - 1.0).has_ended()
        assert not dataclasses.replace(process, host="elsewhere", pid=2**22).has_ended()
        child.kill()
        while child.poll() is None and not process.has_ended():  # at first it is a zombie
            pass
        child.wait()
        assert process.has_ended()


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux tells times of day by the start of the machine")
def test_a_clock_that_is_set_ends_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the clock was set an hour forward, the kernel's time of the machine's start is an hour later."""
    process, created = Process.this(), psutil.Process().create_time()
    boot_time = psutil._pslinux.boot_time
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot_time() + 3600.0)
    assert psutil.Process().create_time() == pytest.approx(created + 3600.0)
    assert not process.has_ended()
