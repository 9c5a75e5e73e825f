"""Attacks the command line as a hostile or unlucky user would, and counts the cases that hold.

    python scripts/attack.py [--parts inputs secrets damage storage kills pushes] [--kills 40] [--seed 0]

* ``inputs``: invalid flags, values, paths, data and environments, see ``hostile_inputs.py``. Expected: one sentence on
  standard error, status 2, and no files. Harmless ones may be accepted, with the same results as without them.
* ``secrets``: tokens passed in every possible way. Expected: none is in a written file or in the output.
* ``damage``: every file of a comparison, an attribution and a repair is damaged in several ways, before a command reads
  it. Expected: one sentence and status 2, or the same results, because the file is written again.
* ``storage``: full disks, folders that are removed, and concurrent commands in the same folder. Expected: one sentence
  or the correct results, and no partial files.
* ``kills``: commands are killed at random moments and repeated. Expected: the same results as without the kill.
* ``pushes``: the tests of faulty pushes, ``tests/hub/test_faults.py``, against a server on the loopback interface.

Prints counts for each part, and every case that does not hold; the exit status is 1 if there are any. Calls are forks
of this process, which imports everything once.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from command_line import positive_int
from hostile_inputs import TINY, Case, bad_data, input_cases, secret_cases

from hf_critmom import commands

TIMEOUT = 600
"""Seconds after which a call counts as hanging, even on a busy machine."""
MEMORY = 24 * 2**30
"""Limit of a call's address space, in bytes."""


@dataclass
class Counts:
    """The outcomes of the cases of one part."""

    part: str
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, outcome: str, case: str = "", *, holds: bool = True) -> None:
        """Counts one case."""
        self.outcomes[outcome] += 1
        if not holds:
            self.failures.append(f"{outcome}: {case}")
            print(f"  DOES NOT HOLD, {outcome}: {case}", flush=True)

    def report(self) -> bool:
        """Prints the counts, and returns whether all cases held."""
        total = sum(self.outcomes.values())
        details = ", ".join(f"{number} {outcome}" for outcome, number in sorted(self.outcomes.items()))
        print(f"{self.part}: {total} cases, {len(self.failures)} did not hold ({details})", flush=True)
        return not self.failures


@dataclass(frozen=True)
class Answer:
    """The outcome of a call.

    Attributes:
        status: The exit status; negative: the signal that killed it.
        out: Standard output.
        error: Standard error.
        hung: Whether it did not end in time.
    """

    status: int
    out: str
    error: str
    hung: bool = False

    @property
    def is_sentence(self) -> bool:
        """Whether the call was refused in one sentence."""
        lines = [line for line in self.error.splitlines() if ": error: " in line]
        return self.status == 2 and len(lines) == 1 and "Traceback" not in self.error + self.out


def warm_up() -> None:
    """Imports what the commands import, so that the calls need not."""
    for name in commands.COMMANDS:
        importlib.import_module(f"hf_critmom.commands.{name}")
    modules = ("datasets", "evaluate", "matplotlib.pyplot", "pandas", "scipy.stats", "sklearn.datasets", "timm")
    for name in (*modules, "transformers.trainer", "hf_critmom.training.trainer", "hf_critmom.hub"):
        importlib.import_module(name)


def start(args: tuple[str, ...], out: Any, error: Any, case: Case | None = None) -> int:
    """Starts the command line in a fork of this process, and returns its process id."""
    sys.stdout.flush()
    if process := os.fork():
        return process
    status = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.dup2(out.fileno(), 1)
        os.dup2(error.fileno(), 2)
        if case is not None:
            os.environ.update(case.environment)
            case.prepare()
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        status = commands.main(args)
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else 1
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def call(*args: str, case: Case | None = None) -> Answer:
    """Calls the command line in a fork of this process."""
    with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as error:
        process, deadline = start(args, out, error, case), time.monotonic() + TIMEOUT
        while (ended := os.waitpid(process, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        if hung := ended[0] == 0:
            os.killpg(process, signal.SIGKILL)
            ended = os.waitpid(process, 0)
        texts = []
        for stream in (out, error):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
        return Answer(os.waitstatus_to_exitcode(ended[1]), texts[0], texts[1], hung)


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    """Changes to a new, temporary working directory."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def attack_inputs(counts: Counts, seed: int) -> None:
    """Calls the commands with invalid or harmless input."""
    with tempfile.TemporaryDirectory() as data:
        with empty_folder() as folder:
            reference = call("compare", *TINY)
            assert reference.status == 0, reference.error
            expected = _results(folder)
        for case in (*input_cases(), *bad_data(Path(data))):
            with empty_folder() as folder:
                case.arrange(folder)
                before = {path for path in folder.rglob("*") if path.is_file()}
                answer = call(*case.args, case=case)
                after = {path for path in folder.rglob("*") if path.is_file()}
                written = [str(path) for path in after - before if ".locks" not in path.parts]
                results = _results(folder) if answer.status == 0 else {}
            if answer.hung:
                counts.add("hung", case.shown, holds=False)
            elif answer.is_sentence or (answer.status == 2 and case.usage and "usage: " in answer.error + answer.out):
                counts.add("refused in a sentence" if answer.is_sentence else "usage", case.shown)
                if written and not case.writes:
                    counts.add("refused, but files were written", f"{case.shown}: {written[:3]}", holds=False)
            elif answer.status in case.statuses and case.harmless and "Traceback" not in answer.error:
                same = answer.status != 0 or case.reads_only or results == expected
                counts.add("accepted, with the same results" if same else "accepted", case.shown, holds=same)
            elif answer.status == 0:
                counts.add("accepted", case.shown, holds=False)
            else:
                counts.add("traceback or other", f"{case.shown}: {answer.status} {answer.error[-300:]!r}", holds=False)


def attack_secrets(counts: Counts, seed: int) -> None:
    """Passes tokens in every possible way, and searches all files and all output for them."""
    for case in secret_cases():
        with empty_folder() as folder:
            case.arrange(folder)
            before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            answer = call(*case.args, case=case)
            leaks = [name for name, text in (("stdout", answer.out), ("stderr", answer.error)) if case.secret in text]
            for path in folder.rglob("*"):
                if path.is_file() and path not in before and case.secret.encode() in path.read_bytes():
                    leaks.append(str(path.relative_to(folder)))
        if leaks:
            counts.add("leaked", f"{case.shown}: {leaks}", holds=False)
        elif answer.status == 0 or answer.is_sentence:
            counts.add("kept" if answer.status == 0 else "kept, and refused in a sentence", case.shown)
        else:
            counts.add("traceback or other", f"{case.shown}: {answer.status} {answer.error[-300:]!r}", holds=False)


# ------------------------------------------------------------------------------------------------------------- damage

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "an empty object": lambda content: b"{}",
    "null": lambda content: b"null",
    "a list": lambda content: b"[]",
    "not UTF-8": lambda content: b"\xff\xfe" + content,
    "zeros": lambda content: bytes(len(content)),
    "doubled": lambda content: content + content,
    "nested too deep": lambda content: b"[" * 100_000,
    "NaN": lambda content: re.sub(rb": -?\d+\.\d+", b": NaN", content),
    "infinite": lambda content: re.sub(rb": -?\d+\.\d+", b": 1e999", content),
    "negative": lambda content: re.sub(rb": (\d)", rb": -\1", content),
    "a name twice": lambda content: content.replace(b"{", b'{"seed": 1, ', 1),
}
_OTHERS: Mapping[str, Any] = {"null": None, "a text": "x", "a number": -1, "a list": [None], "an object": {"x": 1}}


def _tampered(content: bytes) -> dict[str, bytes]:
    """Variants of a JSON object with each top-level value replaced by others or left out."""
    try:
        stored = json.loads(content)
    except ValueError:
        return {}
    if not isinstance(stored, dict):
        return {}
    found = {}
    for key in stored:
        for name, value in _OTHERS.items():
            found[f"{key} is {name}"] = json.dumps({**stored, key: value}).encode()
        found[f"without {key}"] = json.dumps({name: value for name, value in stored.items() if name != key}).encode()
    return found


CLOCKS = ("seconds", "load", "wall", "versions", "per_second", "command", "date", "history", "runtime", "worker")


def _results(folder: Path) -> dict[str, Any]:
    """The results in a folder, without anything that depends on time."""
    found = {}
    for name in ("result.json", "attribution.json", "drift.json", "diagnosis.json", "changed_examples.json"):
        for file in folder.rglob(name):
            found[str(file.relative_to(folder))] = _without_clocks(json.loads(file.read_text()))
    return found


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_clocks(item)
            for name, item in value.items()
            if item not in (None, [], {}) and not any(clock in name for clock in CLOCKS)
        }
    return [_without_clocks(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Work:
    """A command, the folder that it writes to, and commands that read from it."""

    name: str
    folder: str
    args: tuple[str, ...]
    reads: tuple[tuple[str, ...], ...]


RUN = "c/runs/constant/seed-42"
DATA = ("--max_train_samples", "64", "--max_eval_samples", "32", "--use_cpu")
WORKS = (
    Work("compare", "c", ("compare", *TINY, "--output_dir", "c"), (("report", "c"), ("push", "c", "a/b", "--dry_run"))),
    Work("drift", "c", ("drift", "c", "--corruptions", "contrast", "--max_eval_samples", "16"), (("report", "c"),)),
    Work("attribute", "a", ("attribute", RUN, *DATA, "--output_dir", "a"), (("report", "a"),)),
    Work("repair", "r", ("repair", RUN, *DATA, "--num_train_epochs", "1", "--output_dir", "r"), (("report", "r"),)),
)


def attack_damage(counts: Counts, seed: int) -> None:
    """Damages every file that the commands write, and calls the commands that read it, in turn."""
    draw = random.Random(seed)
    with empty_folder():
        for work in WORKS:
            answer = call(*work.args)
            if answer.status != 0:
                raise SystemExit(f"{work.name} failed undamaged ({answer.status}): {answer.error}")
        sound = Path("sound")
        for name in ("c", "a", "r"):
            shutil.copytree(name, sound / name)
        for work in WORKS:
            expected, number = _results(sound / work.folder), 0
            files = [file for file in sorted((sound / work.folder).rglob("*")) if file.suffix in (".json", ".parquet")]
            files = [file for file in files if ".locks" not in file.parts and file.stat().st_size < 2**20]
            if work.name == "drift":
                files = [file for file in files if file.name == "drift.json"]
            for file in files:
                content = file.read_bytes()
                damages = {name: damage(content) for name, damage in DAMAGES.items()}
                tampered = _tampered(content)
                chosen = draw.sample(sorted(tampered), min(len(tampered), 4))
                damages |= {one: tampered[one] for one in chosen}
                for name, damaged in damages.items():
                    if damaged == content:
                        continue
                    number += 1
                    args = (work.args, *work.reads)[number % (1 + len(work.reads))]
                    place = file.relative_to(sound)
                    for one in ("c", "a", "r"):
                        shutil.rmtree(one, ignore_errors=True)
                        shutil.copytree(sound / one, one)
                    place.write_bytes(damaged)
                    _judge(counts, f"{work.name}, {place}: {name}, then {args[0]}", work, call(*args), expected)


def _judge(counts: Counts, case: str, work: Work, answer: Answer, expected: dict[str, Any]) -> None:
    """Counts the outcome of a command that read a damaged file."""
    if answer.is_sentence:
        counts.add("one sentence", case)
    elif answer.hung or answer.status != 0:
        counts.add("traceback or hung", f"{case}: {answer.status} {answer.error[-300:]!r}", holds=False)
    else:
        try:
            same = _results(Path(work.folder)) == expected
        except ValueError:
            same = False
        counts.add("same results" if same else "other results", case, holds=same)


# ------------------------------------------------------------------------------------------------------------ storage


def attack_storage(counts: Counts, seed: int) -> None:
    """Calls every command that writes on a full disk, in a folder that is removed, and twice at the same time."""
    draw = random.Random(seed)
    with empty_folder():
        took, expected = {}, {}
        for work in WORKS:
            started = time.monotonic()
            answer = call(*work.args)
            if answer.status != 0:
                raise SystemExit(f"{work.name} failed ({answer.status}): {answer.error}")
            took[work.args], expected[work.name] = time.monotonic() - started, _results(Path(work.folder))
        sound = Path("sound")
        for name in ("c", "a", "r"):
            shutil.copytree(name, sound / name)
        merge = ("merge", "c", "--output_dir", "m")
        calls = [(work, args, True) for work in WORKS for args in (work.args,)]
        calls += [(work, ("report", work.folder), False) for work in WORKS] + [(WORKS[0], merge, False)]

        def restore(work: Work, from_scratch: bool) -> None:
            for one in ("c", "a", "r", "m"):
                shutil.rmtree(one, ignore_errors=True)
            for one in ("c", "a", "r"):
                if not (from_scratch and one == work.folder and work.name != "drift"):
                    shutil.copytree(sound / one, one)
            if from_scratch and work.name == "drift":
                for file in Path("c").rglob("drift.json"):
                    file.unlink()

        for work, args, from_scratch in calls:
            for limit in (2**12, 2**14, 2**16, 2**19):  # the output goes to files, too
                restore(work, from_scratch)
                full = Case(args, prepare=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
                answer = call(*args, case=full)
                _judge_write(
                    counts, f"{' '.join(args[:2])}, files of {limit:,} bytes at most", answer, Path(work.folder)
                )
            for _ in range(3):
                restore(work, from_scratch)
                folder = Path("m" if args is merge else work.folder)
                with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as error:
                    process, seconds = start(args, out, error), draw.uniform(0.0, took.get(args, 3.0))
                    time.sleep(seconds)
                    shutil.rmtree(folder, ignore_errors=True)
                    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                    error.seek(0)
                    answer = Answer(status, "", error.read().decode(errors="replace"))
                _judge_write(counts, f"{' '.join(args[:2])}, removed after {seconds:.1f} s", answer, folder)
            restore(work, from_scratch)
            with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as error:
                together = [start(args, out, error) for _ in range(2)]
                statuses = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in together]
            wanted = (
                expected[work.name] if from_scratch else _results(sound / work.folder)
            )  # drift is measured after the comparison
            same = statuses == [0, 0] and _results(Path(work.folder)) == wanted
            counts.add("two at once, same results" if same else f"two at once, {statuses}", " ".join(args), holds=same)


def _judge_write(counts: Counts, case: str, answer: Answer, folder: Path) -> None:
    """Counts the outcome of a command that could not write."""
    left = [str(file) for file in folder.rglob(".*.partial*")]
    if answer.hung or not (answer.is_sentence or (answer.status == 0 and "Traceback" not in answer.error)):
        counts.add("traceback or hung", f"{case}: {answer.status} {answer.error[-300:]!r}", holds=False)
    elif left:
        counts.add("partial files", f"{case}: {left}", holds=False)
    else:
        counts.add("one sentence" if answer.is_sentence else "enough room, or done before", case)


# -------------------------------------------------------------------------------------------------------------- kills


def attack_kills(counts: Counts, seed: int, kills: int) -> None:
    """Kills commands at random moments, and repeats them."""
    draw = random.Random(seed)
    saves = ("--save_strategy", "epoch", "--num_train_epochs", "4")
    works = [
        (WORKS[0], (*WORKS[0].args, *saves)),
        (WORKS[1], WORKS[1].args),
        (WORKS[2], WORKS[2].args),
        (WORKS[3], (*WORKS[3].args, *saves)),
    ]
    with empty_folder(), Path(os.devnull).open("wb") as nowhere:
        expected, took = [], []
        for work, args in works:
            before = Path(f"before-{work.name}")
            before.mkdir()
            for name in ("c", "a", "r"):
                if Path(name).exists():
                    shutil.copytree(name, before / name)
            started = time.monotonic()
            answer = call(*args)
            if answer.status != 0:
                raise SystemExit(f"{work.name} failed ({answer.status}): {answer.error}")
            took.append(time.monotonic() - started)
            expected.append(_results(Path(work.folder)))
        for number in range(kills):
            place = number % len(works)
            (work, args), case = works[place], f"{works[place][0].name}, kill {number}"
            for name in ("c", "a", "r"):
                shutil.rmtree(name, ignore_errors=True)
            for kept in Path(f"before-{work.name}").iterdir():
                shutil.copytree(kept, kept.name)
            process, deadline = start(args, nowhere, nowhere), time.monotonic() + took[place] * draw.uniform(0.1, 0.9)
            while (ended := os.waitpid(process, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
                time.sleep(0.005)
            if ended[0] == 0:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            again = call(*args)
            if again.status != 0:
                counts.add("could not be continued", f"{case}: {again.status} {again.error[-300:]!r}", holds=False)
            elif _results(Path(work.folder)) != expected[place]:
                counts.add("other results", case, holds=False)
            else:
                counts.add("had ended before the kill" if ended[0] else "continued with the same results", case)


def attack_pushes(counts: Counts) -> None:
    """Runs the tests of faulty pushes."""
    tests = Path(__file__).parents[1] / "tests" / "hub" / "test_faults.py"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", str(tests)]
    output = subprocess.run(command, capture_output=True, text=True, cwd=tests.parents[2]).stdout
    for number, outcome in re.findall(r"(\d+) (passed|failed|error)", (output.splitlines() or ["1 error"])[-1]):
        for _ in range(int(number)):
            counts.add(outcome, holds=outcome == "passed")


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("inputs", "secrets", "damage", "storage", "kills", "pushes")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="parts to run; default: all")
    parser.add_argument("--kills", type=positive_int, default=40, help="number of kills; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="random seed; default: %(default)s")
    args = parser.parse_args()
    attacks: dict[str, Callable[[Counts], None]] = {
        "inputs": lambda counts: attack_inputs(counts, args.seed),
        "secrets": lambda counts: attack_secrets(counts, args.seed),
        "damage": lambda counts: attack_damage(counts, args.seed),
        "storage": lambda counts: attack_storage(counts, args.seed),
        "kills": lambda counts: attack_kills(counts, args.seed, args.kills),
        "pushes": attack_pushes,
    }
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    warm_up()
    held = []
    for part in args.parts:
        counts, started = Counts(part), time.monotonic()
        attacks[part](counts)
        held.append(counts.report())
        print(f"  {time.monotonic() - started:.0f} s", flush=True)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(_main())
