"""Python interpreters that start at once: their processes are forked from one that has imported what takes long.

`serving` starts the process that forks. What it yields is a launcher, ``python warm_python.py SOCKET``, which takes the
words that plain Python takes (``-m MODULE``, ``-c CODE`` or a script, with arguments) and behaves as that does:
arguments, environment, import path, working folder, standard streams and exit status are passed on. Of two kinds, the
bare one has imported neither Transformers nor what imports it, this package among that: a process of its own can still
import them in any order, or not at all.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

BARE = (
    *("torch._dynamo", "torch.distributed.tensor", "torch.distributed.checkpoint", "torch.distributed.fsdp"),
    *("torch.export", "torchvision", "timm", "accelerate", "datasets", "pandas", "scipy.stats", "scipy.optimize"),
    *("sklearn.metrics", "safetensors.torch", "tokenizers", "jinja2", "rich", "tqdm.auto"),
)
PRELOADED = ("transformers.trainer", "hf_critmom.experiments.comparison.script.recording")
AFTER_TRANSFORMERS = ("transformers", "hf_critmom", "evaluate", "peft")
"""What the bare kind must not have imported."""
POLL_SECONDS = 1.0


@contextmanager
def serving(folder: Path, bare: str = "") -> Iterator[str]:
    """Serves in a process of its own, until it is left.

    Args:
        folder: Where its socket is; the path of a socket must be short.
        bare: Launcher of the bare kind, from which the other kind is forked; empty: a bare one is to be started.
    """
    address = folder / ("warm" if bare else "bare")
    python = bare.split() if bare else [sys.executable]
    kind = "warm" if bare else "bare"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [*python, __file__, "serve", kind, str(address), str(os.getpid())]
    server = subprocess.Popen(words, env=environment)
    try:
        deadline = time.monotonic() + 300.0
        while not address.exists():
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        yield f"{sys.executable} -S -E {__file__} {address}"
    finally:
        server.terminate()
        server.wait()


def serve(kind: str, address: str, owner: int) -> None:
    """Forks a process for each connection, while the process that wants it is there."""
    import importlib

    for name in BARE if kind == "bare" else PRELOADED:
        importlib.import_module(name)
    if kind == "bare":
        assert not {*AFTER_TRANSFORMERS} & {*sys.modules}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{address}.new")
    server.listen(16)
    server.settimeout(POLL_SECONDS)
    Path(f"{address}.new").rename(address)
    while _exists(owner):
        with suppress(TimeoutError):
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                connection.settimeout(None)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _supervise(connection)
            connection.close()


def _exists(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def _supervise(connection: socket.socket) -> None:
    """Runs what a client asks for in a further process, and tells it the exit status."""
    message, streams, _, _ = socket.recv_fds(connection, 1 << 22, 3)
    request = json.loads(message)
    pid = os.fork()
    if pid == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _run(request)
    for stream in streams:
        os.close(stream)
    connection.send(str(pid).encode().ljust(64))
    _, status = os.waitpid(pid, 0)
    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run(request: dict) -> None:
    import torch

    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in paths if path and path not in sys.path]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    status = 0
    try:
        _execute(request["arguments"])
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


def _execute(words: Sequence[str]) -> None:
    """Does what Python does with these words on its command line."""
    import runpy
    import types

    if words[0] == "-m":
        sys.argv, sys.path[0] = [words[1], *words[2:]], str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv, sys.path[0] = [*words], str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


def ask(address: str, arguments: list[str]) -> int:
    """Has the server run what the arguments name, and waits for its exit status."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    request = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
    socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
    pid = int(connection.recv(64))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))  # it ends with this process
    status = int(connection.recv(64) or b"1")
    if status < 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
