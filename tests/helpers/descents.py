"""An experiment whose runs are a few steps of gradient descent, in processes that start at once: nothing here computes
with torch, so that what is left is an engine's own work.

As a program it is a command that has some made on a cluster: ``descents.py ADDRESS FOLDER DATA NUMBER...``.
"""

import json
import os
import platform
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from hf_critmom.engines.interface import ComputeEnvironment, Engine, Load, Work
from hf_critmom.errors import InputError
from hf_critmom.storage.run_folder import RunFolder

RATE = 0.1
SIZE = 200_000
"""Bytes of the file that each run keeps."""


@dataclass(frozen=True)
class Descent:
    """A run of a few steps: a `Job` of an engine."""

    number: int

    @property
    def folder(self) -> Path:
        return Path("runs", f"descent-{self.number}")

    @property
    def title(self) -> str:
        return f"descent {self.number}"


@dataclass(frozen=True)
class Descents:
    """Makes them, with the data of its own machine, and keeps results: an `Executor` and a `Store` of an engine.

    What becomes of a run stands in files among the data: ``kill-N`` kills its process each time, ``kill-once-N`` the
    first time, ``wait-N`` keeps it in its middle, which the file ``running-N-PID`` tells. ``begun`` has a line for each
    run that was begun.
    """

    folder: Path
    data: Path
    resumable = False

    def isolate(self) -> None:
        pass

    def prepare(self, plan: float, threads: int) -> ComputeEnvironment:
        if not self.data.exists():
            raise InputError(f"There are no data at {self.data}: give every machine the same.")
        return ComputeEnvironment("cpu", {"python": platform.python_version()})

    def execute(self, job: Descent, plan: float, folder: Path, send: Callable[..., None]) -> list[float]:
        with (self.data / "begun").open("a") as begun:
            begun.write(f"{job.number}\n")
        weights = [job.number + part / 8.0 for part in range(4)]
        folder.mkdir(parents=True)
        for step in range(4):
            weights = [weight - plan * 2.0 * weight for weight in weights]
            send("step", job.number)
            if step == 1:
                self._middle(job)
        (folder / "model.bin").write_bytes(str(weights).encode().ljust(SIZE))
        return weights

    def _middle(self, job: Descent) -> None:
        if (self.data / f"kill-{job.number}").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if (once := self.data / f"kill-once-{job.number}").exists():
            once.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        running = self.data / f"running-{job.number}-{os.getpid()}"
        while (self.data / f"wait-{job.number}").exists():
            running.touch()
            time.sleep(0.02)
        running.unlink(missing_ok=True)

    def finished(self, job: Descent) -> bool:
        return RunFolder(self.folder / job.folder).finished()

    def keep(self, job: Descent, result: list[float], load: Load) -> None:
        RunFolder(self.folder / job.folder).finish({"weights": result, "load": vars(load)})


class Told:
    """An `Observer` that remembers what it was told, and how much memory this process had."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.memory: list[int] = []
        self._process = psutil.Process()

    def handle(self, worker: int, kind: str, *content: Any) -> None:
        if kind in ("finished", "failed", "message"):
            self.events.append((kind, *content))
        if kind == "finished" and len(self.events) % 10 == 0:
            self.memory.append(self._process.memory_full_info().uss)

    def workers_started(self) -> None:
        pass

    def worker_died(self, worker: int, sentence: str) -> None:
        self.events.append(("died", sentence))


def make(engine: Engine, folder: Path, data: Path, numbers: Iterable[int]) -> Told:
    """Has descents made by an engine."""
    descents, told = Descents(folder, data), Told()
    engine.run(Work([Descent(number) for number in numbers], RATE, descents, descents), told)
    return told


def make_on_ray(address: str | None, folder: Path, data: Path, numbers: Sequence[int]) -> Told:
    """A command that has descents made on a cluster, each with a machine's only core.

    Args:
        address: The cluster's; None: this process is connected to it.
        folder: The folder of the runs.
        data: Where every machine finds the data.
        numbers: Which runs.
    """
    from hf_critmom.engines.ray import RayEngine
    from hf_critmom.engines.ray_cluster import Share

    engine = RayEngine(address, Share(1.0, 0.0), None, 1)
    with closing(engine):
        return make(engine, folder, data, numbers)


def begun(data: Path) -> Counter[int]:
    """How often each run was begun."""
    return Counter(int(line) for line in (data / "begun").read_text().splitlines())


def loads(folder: Path) -> dict[int, dict[str, Any]]:
    """Where each finished run was made."""
    results = {file.parent.name: json.loads(file.read_text()) for file in folder.glob("runs/*/result.json")}
    return {int(name.removeprefix("descent-")): result["load"] for name, result in results.items()}


def kept(folder: Path) -> dict[str, Any]:
    """Results and files of all runs, without where they were made."""
    results = {file.parent.name: json.loads(file.read_text())["weights"] for file in folder.glob("runs/*/result.json")}
    files = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.glob("runs/*/*")
        if file.name != "result.json"
    }
    return {**results, **files}


if __name__ == "__main__":
    from helpers import descents  # by its name as a module, under which workers find it

    from hf_critmom.engines import ray_cluster

    ray_cluster.SECONDS_TO_ANSWER = 300  # of a busy machine
    descents.make_on_ray(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), [int(word) for word in sys.argv[4:]])
