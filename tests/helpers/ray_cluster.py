"""A Ray cluster of two machines in processes of this one, and what a user brings to it."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

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


class Meets(Counting):
    """Waits until another of its runs is in its middle as well, if somebody wants that."""

    def before(self):
        (HERE / f"meets-{os.getpid()}").touch()
        deadline = time.monotonic() + 300.0
        while (HERE / "meet").exists() and time.monotonic() < deadline:
            if len([*HERE.glob("meets-*")]) > 1:
                return
            time.sleep(0.02)


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
        try:
            patiently(lambda: cluster.add_node(num_cpus=1))
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            yield cluster
        finally:
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


def pull_the_plug(machine: Any, place: Path, waiting: str = "plug") -> None:
    """Kills every process of a machine as soon as it is in the middle of a run.

    Args:
        machine: The machine.
        place: Where runs tell by files ``running-...PID`` that they are in their middle.
        waiting: The files there that keep them in it, as a pattern; they are removed.
    """
    raylet = psutil.Process(machine.all_processes["raylet"][0].process.pid)
    deadline = time.monotonic() + 300.0
    try:
        while True:
            processes = [raylet, *raylet.children(recursive=True)]
            running = {int(file.name.rpartition("-")[2]) for file in place.glob("running-*")}
            if running & {process.pid for process in processes}:
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for process in processes:
            process.kill()
    finally:
        for file in place.glob(waiting):
            file.unlink()


@contextmanager
def plug_pulled(machine: Any, place: Path, waiting: str = "plug") -> Iterator[None]:
    """What is within runs on a cluster of which one machine loses its plug, see `pull_the_plug`."""
    with ThreadPoolExecutor(1) as pool:
        pulled = pool.submit(pull_the_plug, machine, place, waiting)
        yield
        assert pulled.done()
        pulled.result()
