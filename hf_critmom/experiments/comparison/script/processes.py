"""A script's run as processes: they are started with its flags, watched, and ended with the command."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.script.command_line import Script
from hf_critmom.experiments.comparison.script.instructions import (
    EVENTS_FILE,
    LOG_FILE,
    RECORDING_FILE,
    Instructions,
    Process,
    Recording,
)
from hf_critmom.storage.files import atomic_write
from hf_critmom.storage.redaction import redact
from hf_critmom.storage.typed import RecordError

POLL_SECONDS = 0.1
SECONDS_TO_END = 5.0
_BYTES_AT_ONCE = 2**22
KEPT_LINES = 30
"""Number of last lines of the log that are kept of a failed run."""


class RunFailed(Exception):
    """A run of a script failed; the message is one sentence.

    Args:
        message: The sentence.
        lines: Last lines of the run's log.
    """

    def __init__(self, message: str, lines: list[str] | None = None) -> None:
        super().__init__(message)
        self.lines = lines or []
        if self.lines:
            self.add_note("\n".join(["The last lines of its log:", *self.lines]))


class ScriptRun:
    """One run of a script.

    Args:
        script: The script.
        folder: The run's folder, an absolute path.
        arm: The run's arm.
        flags: Flags that the run sets.
        threads: Number of threads of each process.
        environment: Environment variables besides those of this process.
        dry_run: Whether the run ends after a few steps.
    """

    def __init__(
        self,
        script: Script,
        folder: Path,
        arm: Arm,
        flags: Mapping[str, Any],
        *,
        threads: int,
        environment: Mapping[str, str],
        dry_run: bool = False,
    ) -> None:
        self.script, self.folder, self.arm, self.flags = script, folder, arm, flags
        self.threads, self.environment, self.dry_run = threads, environment, dry_run
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.lock = folder.parent / f".{folder.name}.lock"

    def make(self, on_event: Callable[..., None] = lambda *event: None) -> Recording:
        """Runs the script to its end.

        Args:
            on_event: Called with each event that the run's processes send, and with ``"line"`` and the last line of the
                log.

        Returns:
            The recording of the run.

        Raises:
            RunFailed: If the run failed, or recorded nothing.
        """
        self.wait_for_earlier()
        instructions = self.folder / f"instructions-{uuid.uuid4().hex}.json"
        arm = {"name": self.arm.name, **self.arm.record()}
        Instructions(str(self.folder), str(self.lock), Process.this(), arm, self.dry_run).write(instructions)
        command = self.script.command(self.flags, self.folder, instructions)
        environment = {**os.environ, **self.environment, "OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads leave the cores to other runs
        try:
            with (self.folder / LOG_FILE).open("wb") as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            try:
                status = self._watch(process, on_event)
            finally:
                _end(process)
                _redact_file(self.folder / LOG_FILE)
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True)
                raise RunFailed(
                    f"{self.script.title} removes its --output_dir, in which its run is recorded: expected a script "
                    "that keeps it.",
                    list(self.lines),
                )
            return self._recorded(status)
        finally:
            last = Path(command[-1])
            copied = [last] if last.parent == self.folder else []  # a file of arguments, which may hold secrets
            for file in (instructions, self.folder / EVENTS_FILE, self.lock, *copied):
                file.unlink(missing_ok=True)

    def wait_for_earlier(self) -> None:
        """Waits until processes of a killed command, which end by themselves, have released the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in self.folder.glob("instructions-*.json"):  # a process that is still starting then ends, too
            file.unlink()
        with FileLock(self.lock).acquire(timeout=60.0):
            (self.folder / RECORDING_FILE).unlink(missing_ok=True)
            (self.folder / EVENTS_FILE).unlink(missing_ok=True)

    def check(self, recording: Recording, seed: int) -> None:
        """Checks that the script trained with the flags that it was given.

        Raises:
            RunFailed: If it ignored a flag.
        """
        title = self.script.title
        expected: dict[str, tuple[Any, Any]] = {
            "output_dir": (str(self.folder.resolve()), recording.output_dir),
            "seed": (seed, recording.seed),
            "optim": (self.flags["optim"], recording.optim),
        }
        if recording.own_optimizer:
            raise RunFailed(
                f"{title} passes its Trainer an optimizer ({recording.own_optimizer}) regardless of --optim: expected "
                "a script that leaves the choice to its TrainingArguments.",
                list(self.lines),
            )
        expected |= {
            name: (self.flags[name], recording.training.get(name, self.flags[name]))
            for name in ("eval_strategy", "eval_steps")
            if self.flags.get(name) is not None
        }
        expected |= {
            name: (float(self.flags[name]), getattr(recording, name))
            for name in ("learning_rate", "weight_decay")
            if self.flags.get(name) is not None
        }
        for name, (wanted, found) in expected.items():
            if found != wanted:
                shown = Path(found).name if name == "output_dir" else found
                raise RunFailed(
                    f"{title} ignores --{name} (it trained with {shown}): expected a script that takes its "
                    "TrainingArguments from the command line.",
                    list(self.lines),
                )

    def _watch(self, process: "subprocess.Popen[bytes]", on_event: Callable[..., None]) -> int:
        """Passes on events and lines of the log until the process has ended; returns its exit status."""
        with (self.folder / LOG_FILE).open("rb") as log:
            rest, events = b"", _Events(self.folder / EVENTS_FILE)
            while True:
                status = process.poll()
                parts = re.split(rb"[\r\n]+", rest + log.read())
                rest = b"" if status is not None else parts.pop()
                lines = [redact(part.decode(errors="replace").rstrip()) for part in parts if part.strip()]
                self.lines.extend(lines)
                for event in events.new():
                    on_event(*event)
                if lines:
                    on_event("line", lines[-1].strip())
                if status is not None:
                    return status
                time.sleep(POLL_SECONDS)

    def _recorded(self, status: int) -> Recording:
        """The recording of a run that has ended.

        Raises:
            RunFailed: If the run failed, did not train to its end, or began a second training.
        """
        try:
            recording = Recording.read(self.folder)
        except RecordError as error:
            raise RunFailed(f"its {RECORDING_FILE} is damaged ({error}).", list(self.lines)) from None
        if recording is not None and recording.trainings > 1:
            raise RunFailed(
                f"{self.script.title} trains several times: expected a script with a single training.", list(self.lines)
            )
        diverged = recording is not None and recording.trained and recording.diverged
        if status and not diverged:  # after a training that diverged, the rest of a script may well fail
            trained = recording is not None and recording.trained
            raise RunFailed(explain(self.script.title, status, list(self.lines), trained=trained), list(self.lines))
        if recording is None:
            raise RunFailed(
                f"{self.script.title} ended without training by a Transformers Trainer: some scripts need --do_train.",
                list(self.lines),
            )
        if not recording.trained:
            raise RunFailed(f"{self.script.title} ended before its training was complete.", list(self.lines))
        return recording


class _Events:
    """Reader of the events that the processes of a run send."""

    def __init__(self, file: Path) -> None:
        self.file, self.place = file, 0

    def new(self) -> list[list[Any]]:
        """The events since the last call, without a line that is still being written."""
        if not self.file.exists():
            return []
        with self.file.open("rb") as file:
            file.seek(self.place)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        self.place += len(complete)
        return [json.loads(line) for line in complete.splitlines()]


def explain(title: str, status: int, lines: list[str], *, trained: bool = False) -> str:
    """Why a script failed, as one sentence.

    Args:
        title: Name of the script in messages.
        status: Exit status; minus the number of the signal that killed it.
        lines: Last lines of the log.
        trained: Whether the training was complete.
    """
    text = "\n".join(lines)
    last = _last_message(lines)
    if status < 0:
        perhaps = ", perhaps because memory ran out" if -status == signal.SIGKILL else ""
        return f"{title} was killed (signal {-status}, {_signal_name(-status)}){perhaps}; its last line: {last}."
    if "EOFError" in text and ("reading a line" in text or "getpass" in text):
        return f"{title} asks for input, which nobody can enter: give it what it asks for as flags."
    if found := _last_match(r"argument --?([\w-]+):? (?:invalid choice: '?([^' ]+)'?)(.*)", lines):
        return (
            f"{title} has its own choices for --{found[1]}, and {found[2]} is not among them{found[3].rstrip('.')}: "
            "expected a script whose flags are TrainingArguments."
        )
    if found := _last_match(r"(?:unrecognized arguments:|not used by the HfArgumentParser:) (.*)", lines):
        if re.search(r"\barguments\.(json|ya?ml)'?\]?$", found[1]):
            return f"{title} does not read a file of arguments, as HfArgumentParser can: give them one by one."
        return f"{title} does not take the arguments {found[1]}: expected a script whose flags are TrainingArguments."
    if "eval_dataset" in last:
        return f"{title} never evaluates, as times to targets require ({last}): some scripts need --do_eval."
    return f"{title} ended with status {status}{' after its training' if trained else ''}: {last}."


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else "unknown"


def _last_match(pattern: str, lines: list[str]) -> re.Match[str] | None:
    """The match in the last line that has one: in a traceback, the message comes after the lines of code."""
    return next((found for line in reversed(lines) if (found := re.search(pattern, line))), None)


def _last_message(lines: list[str]) -> str:
    """The last line with an error, or else the last line."""
    errors = [line for line in lines if re.match(r"\s*(\[rank\d+\]:\s*)?[\w.]*(Error|Exception|Exit)\b.*:", line)]
    chosen = errors[-1] if errors else next((line for line in reversed(lines) if line.strip()), "it printed nothing")
    chosen = chosen.strip().rstrip(".")
    return chosen if len(chosen) <= 300 else f"{chosen[:300]} ..."


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process and those that it started: first with SIGTERM, so that they can clean up, then with SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None and number == signal.SIGTERM:
            continue
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            return
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            continue


def _redact_file(file: Path) -> None:
    """Redacts secrets that a script has printed in its log, after the script has ended."""
    if not file.exists():  # the script has removed its folder
        return
    with atomic_write(file) as partial, file.open("rb") as log, partial.open("wb") as kept:
        while lines := log.readlines(_BYTES_AT_ONCE):  # several at once, because a private key spans lines
            text = redact(b"".join(lines).decode(errors="surrogateescape"))
            kept.write(text.encode(errors="surrogateescape"))


def clear(folder: Path, *, but: Path | None = None) -> None:
    """Removes what an earlier attempt has left in a run's folder.

    Args:
        folder: The folder.
        but: The checkpoint from which the run resumes, which is kept.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if path == but:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
