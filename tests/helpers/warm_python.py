"""A launcher for scripts whose processes are forked from one that has imported everything: ``warm_python.py SOCKET``.

As a launcher it takes ``-m MODULE ARGS``, and behaves as plain Python does: arguments, environment, working folder,
standard streams and exit status are passed on. `serving` starts the process that forks.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRELOADED = ("datasets", "torchvision", "hf_critmom.experiments.comparison.script.recording")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serves in a process of its own; what it yields is the launcher, as ``--launcher`` takes it."""
    address = folder / "warm.socket"
    server = subprocess.Popen([sys.executable, __file__, "serve", str(address)])
    try:
        deadline = time.monotonic() + 300.0
        while not address.exists():
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        yield f"{sys.executable} -S -E {__file__} {address}"
    finally:
        server.kill()
        server.wait()


def serve(address: str) -> None:
    """Forks a process for each connection."""
    import importlib

    for name in PRELOADED:
        importlib.import_module(name)
    from transformers.trainer import Trainer  # noqa: F401  # imported lazily otherwise

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{address}.new")
    server.listen(16)
    Path(f"{address}.new").rename(address)
    while True:
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _supervise(connection)
        connection.close()


def _supervise(connection: socket.socket) -> None:
    """Runs what a client asks for in a further process, and tells it the exit status."""
    message, streams, _, _ = socket.recv_fds(connection, 1 << 22, 3)
    request = json.loads(message)
    pid = os.fork()
    if pid == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        _run(request)
    connection.send(str(pid).encode().ljust(64))
    _, status = os.waitpid(pid, 0)
    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run(request: dict) -> None:
    import runpy

    import torch

    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sys.argv = ["hf_critmom", *request["arguments"][2:]]
    status = 0
    try:
        runpy.run_module(request["arguments"][1], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def ask(address: str, arguments: list[str]) -> int:
    """Has the server run a module, and waits for its exit status."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    request = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
    socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
    pid = int(connection.recv(64))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))  # it ends with this process
    status = int(connection.recv(64) or b"1")
    if status < 0:
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
