"""A Ray cluster of two machines in processes of this one, and what a user and an experiment bring to it."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from hf_critmom.engines.interface import Load, Work
from hf_critmom.errors import InputError
from hf_critmom.storage.run_folder import RunFolder

ARMS = '''
"""Arms of a user, whose optimizers do what optimizers of users do, in steps that only a run comes to."""

import os, signal, time
from pathlib import Path

import torch

HERE = Path(__file__).parent


class Counting(torch.optim.SGD):
    steps = 0

    def step(self, closure=None):
        self.steps += 1
        if self.steps == 4:  # one more than a command tries before all runs
            self.before()
        return super().step(closure)


class Slow(Counting):
    """Says where it runs, and waits until somebody has pulled the plug of a machine, if somebody is about to."""

    def before(self):
        (HERE / f"running-{os.getpid()}").touch()
        deadline = time.monotonic() + 100.0
        while (HERE / "plug").exists() and time.monotonic() < deadline:
            time.sleep(0.05)


class Fails(Counting):
    def before(self):
        raise RuntimeError("the optimizer of the user is broken")


class Dies(Counting):
    """Is killed with its process, once, if somebody wants that."""

    def before(self):
        if (HERE / "deadly").exists():
            (HERE / "deadly").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
'''


@contextmanager
def two_machines(place: Path) -> Iterator[Any]:
    """A cluster of two machines with one core each, which this process is connected to.

    Args:
        place: A folder where every process finds the optimizers of a user, as the module ``users_arms``.
    """
    import ray
    from ray.cluster_utils import Cluster

    (place / "users_arms.py").write_text(ARMS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(place), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths).rstrip(os.pathsep))
        patch.syspath_prepend(str(place))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("HF_HUB_OFFLINE", "1")
        cluster = patiently(
            lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        )
        patiently(lambda: cluster.add_node(num_cpus=1))
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def patiently(start: Callable[[], Any]) -> Any:
    """Ray gives a machine half a minute to start, which a busy one may need longer for."""
    for _ in range(4):
        try:
            return start()
        except Exception as error:
            late = error
    raise late


def second_machine(cluster: Any) -> Any:
    """The machine beside the head of the cluster; a new one, if somebody has pulled its plug."""
    for machine in cluster.worker_nodes:
        if machine.all_processes["raylet"][0].process.poll() is None:
            return machine
    return patiently(lambda: cluster.add_node(num_cpus=1))


def pull_the_plug(machine: Any, place: Path) -> None:
    """Kills every process of a machine as soon as it is in the middle of a run."""
    raylet = psutil.Process(machine.all_processes["raylet"][0].process.pid)
    while True:
        processes = [raylet, *raylet.children(recursive=True)]
        if any((place / f"running-{process.pid}").exists() for process in processes):
            break
        time.sleep(0.05)
    for process in processes:
        process.kill()
    (place / "plug").unlink()


FIRST_THAT_WAITS = 1000
"""Runs from this number on wait until somebody has pulled the plug of a machine, if somebody is about to."""


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
    """Makes them, with the data of its own machine, and keeps results: an `Executor` and a `Store` of an engine."""

    folder: Path
    data: Path
    resumable = False

    def isolate(self) -> None:
        pass

    def prepare(self, plan: float) -> None:
        if not self.data.exists():
            raise InputError(f"There are no data at {self.data}: give every machine the same.")

    def execute(self, job: Descent, plan: float, folder: Path, send: Callable[..., None]) -> list[float]:
        if (self.data / f"kill-{job.number}").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if (once := self.data / f"kill-once-{job.number}").exists():
            once.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if job.number >= FIRST_THAT_WAITS:
            (self.data / f"running-{os.getpid()}").touch()
            while (self.data / "plug").exists():
                time.sleep(0.05)
        folder.mkdir(parents=True)
        (folder / "model.bin").write_bytes(bytes(200_000))
        weight = torch.full((3,), float(job.number), requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=plan)
        for _ in range(3):
            optimizer.zero_grad()
            weight.square().sum().backward()
            optimizer.step()
            send("step", job.number)
        return weight.tolist()

    def weight(self, job: Descent) -> list[float]:
        """What a run was kept with."""
        weight: list[float] = json.loads((self.folder / job.folder / "result.json").read_text())["weight"]
        return weight

    def finished(self, job: Descent) -> bool:
        return RunFolder(self.folder / job.folder).finished()

    def keep(self, job: Descent, result: list[float], load: Load) -> None:
        RunFolder(self.folder / job.folder).finish({"weight": result, "load": vars(load)})


class Told:
    """An `Observer` that remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.memory: list[int] = []
        self._process = psutil.Process()

    def handle(self, worker: int, kind: str, *content: Any) -> None:
        if kind in ("finished", "failed", "said"):
            self.events.append((kind, *content))
        if kind == "finished" and len(self.events) % 10 == 0:
            self.memory.append(self._process.memory_full_info().uss)

    def started(self) -> None:
        pass

    def died(self, worker: int, sentence: str) -> None:
        self.events.append(("died", sentence))


def make_descents(address: str | None, folder: Path, data: Path, numbers: Sequence[int]) -> None:
    """A command that has runs made on a cluster, each with a machine's only core.

    Args:
        address: The cluster's; None: this process is connected to it.
        folder: The folder of the runs.
        data: Where every machine finds the data.
        numbers: Which runs.
    """
    from hf_critmom.engines.ray import RayEngine
    from hf_critmom.engines.ray_cluster import Share

    engine, descents = RayEngine(address, Share(1.0, 0.0), None, 1), Descents(folder, data)
    with closing(engine):
        engine.make(Work([Descent(number) for number in numbers], 0.1, descents, descents), Told())


if __name__ == "__main__":
    make_descents(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), [int(number) for number in sys.argv[4:]])
