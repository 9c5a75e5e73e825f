"""Connects to a Ray cluster or starts one on this machine, and counts how many runs it has room for."""

import importlib.util
import math
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hf_critmom.engines.errors import EngineError
from hf_critmom.storage.workers import usable_cores

SECONDS_TO_ANSWER = 30
"""A cluster that has not answered after this long counts as unreachable."""
SECONDS_TO_CONNECT = 5
"""Timeout for a connection to the port of a cluster."""
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


@dataclass(frozen=True)
class Share:
    """The share of a machine for each run.

    Attributes:
        cpus: Number of CPUs.
        gpus: Number of GPUs; below 1, several runs share one. None: 1 if the cluster has any.
    """

    cpus: float
    gpus: float | None = None

    def fits(self, resources: Mapping[str, float]) -> int:
        """Number of shares that a machine has room for.

        Args:
            resources: Resources of the machine, by Ray's names of them.
        """
        wanted = {"CPU": self.cpus, "GPU": self.gpus or 0.0}
        numbers = [
            math.floor(resources.get(name, 0.0) / amount + 1e-6) for name, amount in wanted.items() if amount > 0.0
        ]
        if 0.0 < wanted["GPU"] < 1.0:  # a fraction is taken of a single GPU
            numbers.append(int(resources.get("GPU", 0.0)) * math.floor(1.0 / wanted["GPU"] + 1e-6))
        return min(numbers)


class Cluster:
    """A connection to Ray.

    Args:
        address: Address of the cluster, or "auto" for the one that this machine or ``RAY_ADDRESS`` belongs to; None to
            start one on this machine, which `close` stops.
        share: The share of a machine for each run.

    Raises:
        EngineError: If Ray is not installed, does not answer, or has no machine with room for a run.
    """

    def __init__(self, address: str | None, share: Share) -> None:
        if importlib.util.find_spec("ray") is None:
            raise EngineError("--engine ray needs the package ray: pip install 'ray>=2.50'.")
        import ray  # imported late: the package is optional, and slow to import

        self.ray: Any = ray
        self.owns_connection = not ray.is_initialized()  # an existing connection of this program is reused
        if self.owns_connection:
            self._connect(address)
        try:
            has_gpus = any(resources.get("GPU", 0.0) > 0.0 for resources in self._machines())
            self.share = Share(share.cpus, (1.0 if has_gpus else 0.0) if share.gpus is None else share.gpus)
            self._check_room()
        except EngineError:
            self.close()
            raise

    def room(self) -> int:
        """Number of runs that the cluster has room for at the same time."""
        return sum(self.share.fits(resources) for resources in self._machines())

    def names(self) -> dict[str, str]:
        """Names of the machines by their ids in Ray: host names, with part of the id if machines share one."""
        hosts = {node["NodeID"]: node["NodeManagerHostname"] for node in self.ray.nodes()}
        shared = Counter(hosts.values())
        return {node: host if shared[host] == 1 else f"{host}-{node[:6]}" for node, host in hosts.items()}

    def close(self) -> None:
        """Closes the connection, and stops the cluster if it was started for it."""
        if self.owns_connection:
            self.ray.shutdown()

    def _machines(self) -> list[Mapping[str, float]]:
        """Resources of each machine that is alive."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _connect(self, address: str | None) -> None:
        if address is not None:
            _check_answer(address)
        room: dict[str, Any] = {} if address is not None else {"num_cpus": usable_cores(), "include_dashboard": False}
        with _preserve_signal_handlers():
            try:
                self.ray.init(address=address or "local", **room, **_QUIET)
            except Exception as error:  # on a busy machine, it may raise a bare Exception
                action = "start on this machine" if address is None else f"connect to {address}"
                raise EngineError(
                    f"Ray could not {action} ({_first_line(error)}): check Ray's logs, and repeat the command."
                ) from error

    def _check_room(self) -> None:
        """Raises an `EngineError` if no machine has room for a run."""
        for flag, name, wanted in (("cpus", "CPU", self.share.cpus), ("gpus", "GPU", self.share.gpus or 0.0)):
            most = max((resources.get(name, 0.0) for resources in self._machines()), default=0.0)
            if wanted > most:
                raise EngineError(
                    f"--{flag}_per_run {wanted:g} exceeds the largest machine of the Ray cluster ({most:g} {name}): "
                    "request less."
                )
        if not self.room():
            raise EngineError(
                f"No machine of the Ray cluster has {self.share.cpus:g} CPUs and {self.share.gpus:g} GPUs for a run: "
                "request less with --cpus_per_run and --gpus_per_run."
            )


_CONNECT_SCRIPT = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    sys.exit("refused: " + str(error).strip().split("\\n")[0])
"""


def _check_answer(address: str) -> None:
    """Checks in a separate process that Ray answers: `ray.init` would wait for minutes, and then abort the process.

    Raises:
        EngineError: If Ray does not answer within `SECONDS_TO_ANSWER`.
    """
    why = f"no Ray answered within {SECONDS_TO_ANSWER} s"
    try:
        _check_port(address)
        answer = subprocess.run(
            [sys.executable, "-c", _CONNECT_SCRIPT, address], capture_output=True, text=True, timeout=SECONDS_TO_ANSWER
        )
    except subprocess.TimeoutExpired:
        pass
    except OSError as error:
        why = error.strerror or str(error)
    else:
        if answer.returncode == 0:
            return
        refused = [line.partition("refused: ")[2] for line in answer.stderr.splitlines() if "refused: " in line]
        why = refused[-1].rstrip(".") if refused else why
    raise EngineError(
        f"No Ray cluster could be reached at --ray_address {address} ({why}): expected HOST:PORT of a cluster that "
        "this machine belongs to, or auto; without --ray_address, Ray is started on this machine."
    )


def _check_port(address: str) -> None:
    """Connects to the port of an address, if it names one, and disconnects.

    Raises:
        OSError: If nothing listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal() and int(port) < 2**16:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextmanager
def _preserve_signal_handlers() -> Iterator[None]:
    """Restores this process's handlers of SIGTERM and SIGINT at the end, because Ray replaces them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
