"""Attack the command line as a hostile or unlucky user would, and count what holds.

    python scripts/attack.py [--parts inputs secrets damage storage kills pushes] [--kills 40] [--seed 0]

* ``inputs``: wrong flags, values, paths, data and environments, see ``hostile_inputs.py``. One sentence on standard
  error, status 2, nothing written. Those that are harmless may be accepted if the results are those without them.
* ``secrets``: tokens given in every way; none may be in a file that is written, or be said.
* ``damage``: every file of a comparison, an attribution and a repair, damaged in several ways, then a command that
  reads it. One sentence and status 2, or the file is made again and the results are what they were.
* ``storage``: disks that take no more, folders that are removed and commands that work in one at the same time. One
  sentence, or the results that they should have, and no partial file.
* ``kills``: commands killed at random moments and started again. The results are those of an undisturbed run.
* ``pushes``: the tests of faulty pushes, ``tests/hub/test_faults.py``, against a server on the loopback interface.

It prints a count of each, and every case that did not hold; its status is 1 if there is one. Calls are forks of this
process, which has imported everything once.
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

from hostile_inputs import TINY, Case, bad_data, input_cases, secret_cases

from hf_critmom import commands

LONGEST = 600
"""Seconds after which a call counts as hanging, on a machine that has other work, too."""
MEMORY = 24 * 2**30
"""Bytes of addresses that a call may use."""


@dataclass
class Counts:
    """What became of the cases of one part."""

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
        """Prints the counts; whether everything held."""
        total = sum(self.outcomes.values())
        details = ", ".join(f"{number} {outcome}" for outcome, number in sorted(self.outcomes.items()))
        print(f"{self.part}: {total} cases, {len(self.failures)} did not hold ({details})", flush=True)
        return not self.failures


@dataclass(frozen=True)
class Answer:
    """What a call came to.

    Attributes:
        status: The exit status; negative: the signal that ended it.
        out: What it said on standard output.
        error: What it said on standard error.
        hung: Whether it did not end in time.
    """

    status: int
    out: str
    error: str
    hung: bool = False

    @property
    def sentence(self) -> bool:
        """Whether it is a refusal in one sentence."""
        lines = [line for line in self.error.splitlines() if ": error: " in line]
        return self.status == 2 and len(lines) == 1 and "Traceback" not in self.error + self.out


def warm_up() -> None:
    """Imports what the commands import, so that each call need not."""
    for name in commands.COMMANDS:
        importlib.import_module(f"hf_critmom.commands.{name}")
    modules = ("datasets", "evaluate", "matplotlib.pyplot", "pandas", "scipy.stats", "sklearn.datasets", "timm")
    for name in (*modules, "transformers.trainer", "hf_critmom.training.trainer", "hf_critmom.hub"):
        importlib.import_module(name)


def start(args: tuple[str, ...], out: Any, error: Any, case: Case | None = None) -> int:
    """Starts the command line in a fork of this process, and returns its number."""
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
        process, deadline = start(args, out, error, case), time.monotonic() + LONGEST
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
    """Works in a new folder."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def attack_inputs(counts: Counts, seed: int) -> None:
    """Calls the commands with what cannot be used, or at most does no harm."""
    with tempfile.TemporaryDirectory() as data:
        with empty_folder() as folder:
            undisturbed = call("compare", *TINY)
            assert undisturbed.status == 0, undisturbed.error
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
            elif answer.sentence or (answer.status == 2 and case.usage and "usage: " in answer.error + answer.out):
                counts.add("refused in a sentence" if answer.sentence else "usage", case.shown)
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
    """Gives tokens in every way, and looks for them in every file and in what is said."""
    for case in secret_cases():
        with empty_folder() as folder:
            case.arrange(folder)
            before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            answer = call(*case.args, case=case)
            told = [name for name, text in (("stdout", answer.out), ("stderr", answer.error)) if case.secret in text]
            for path in folder.rglob("*"):
                if path.is_file() and path not in before and case.secret.encode() in path.read_bytes():
                    told.append(str(path.relative_to(folder)))
        if told:
            counts.add("told", f"{case.shown}: {told}", holds=False)
        elif answer.status == 0 or answer.sentence:
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
    """JSON with each top-level value replaced by others, and each left out."""
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
    """Everything that a command found, without what a clock measured."""
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
    """A command with the folder that it writes, and others that read there."""

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
    """Damages every file that the commands wrote, and calls something that reads it, one command after another."""
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
            expected, turn = _results(sound / work.folder), 0
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
                    turn += 1
                    args = (work.args, *work.reads)[turn % (1 + len(work.reads))]
                    place = file.relative_to(sound)
                    for one in ("c", "a", "r"):
                        shutil.rmtree(one, ignore_errors=True)
                        shutil.copytree(sound / one, one)
                    place.write_bytes(damaged)
                    _judge(counts, f"{work.name}, {place}: {name}, then {args[0]}", work, call(*args), expected)


def _judge(counts: Counts, case: str, work: Work, answer: Answer, expected: dict[str, Any]) -> None:
    """Counts what a command did with a damaged file."""
    if answer.sentence:
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
    """Calls every command that writes where writing fails, where its folder goes, and beside itself."""
    draw = random.Random(seed)
    with empty_folder():
        took, expected = {}, {}
        for work in WORKS:
            began = time.monotonic()
            answer = call(*work.args)
            if answer.status != 0:
                raise SystemExit(f"{work.name} failed undisturbed ({answer.status}): {answer.error}")
            took[work.args], expected[work.name] = time.monotonic() - began, _results(Path(work.folder))
        sound = Path("sound")
        for name in ("c", "a", "r"):
            shutil.copytree(name, sound / name)
        joined = ("merge", "c", "--output_dir", "m")
        calls = [(work, args, True) for work in WORKS for args in (work.args,)]
        calls += [(work, ("report", work.folder), False) for work in WORKS] + [(WORKS[0], joined, False)]

        def begin(work: Work, anew: bool) -> None:
            for one in ("c", "a", "r", "m"):
                shutil.rmtree(one, ignore_errors=True)
            for one in ("c", "a", "r"):
                if not (anew and one == work.folder and work.name != "drift"):
                    shutil.copytree(sound / one, one)
            if anew and work.name == "drift":
                for file in Path("c").rglob("drift.json"):
                    file.unlink()

        for work, args, anew in calls:
            for limit in (2**12, 2**14, 2**16, 2**19):  # what it says is in files, too
                begin(work, anew)
                full = Case(args, prepare=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
                answer = call(*args, case=full)
                _settle(counts, f"{' '.join(args[:2])}, files of {limit:,} bytes at most", answer, Path(work.folder))
            for _ in range(3):
                begin(work, anew)
                folder = Path("m" if args is joined else work.folder)
                with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as error:
                    process, seconds = start(args, out, error), draw.uniform(0.0, took.get(args, 3.0))
                    time.sleep(seconds)
                    shutil.rmtree(folder, ignore_errors=True)
                    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                    error.seek(0)
                    answer = Answer(status, "", error.read().decode(errors="replace"))
                _settle(counts, f"{' '.join(args[:2])}, removed after {seconds:.1f} s", answer, folder)
            begin(work, anew)
            with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as error:
                together = [start(args, out, error) for _ in range(2)]
                statuses = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in together]
            wanted = expected[work.name] if anew else _results(sound / work.folder)  # drift comes after the comparison
            same = statuses == [0, 0] and _results(Path(work.folder)) == wanted
            counts.add("two at once, same results" if same else f"two at once, {statuses}", " ".join(args), holds=same)


def _settle(counts: Counts, case: str, answer: Answer, folder: Path) -> None:
    """Counts what a command did whose files were not taken."""
    left = [str(file) for file in folder.rglob(".*.partial*")]
    if answer.hung or not (answer.sentence or (answer.status == 0 and "Traceback" not in answer.error)):
        counts.add("traceback or hung", f"{case}: {answer.status} {answer.error[-300:]!r}", holds=False)
    elif left:
        counts.add("partial files", f"{case}: {left}", holds=False)
    else:
        counts.add("one sentence" if answer.sentence else "enough room, or done before", case)


# -------------------------------------------------------------------------------------------------------------- kills


def attack_kills(counts: Counts, seed: int, kills: int) -> None:
    """Kills commands at random moments and starts them again."""
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
            began = time.monotonic()
            answer = call(*args)
            if answer.status != 0:
                raise SystemExit(f"{work.name} failed undisturbed ({answer.status}): {answer.error}")
            took.append(time.monotonic() - began)
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
    said = subprocess.run(command, capture_output=True, text=True, cwd=tests.parents[2]).stdout
    for number, outcome in re.findall(r"(\d+) (passed|failed|error)", said.splitlines()[-1]):
        for _ in range(int(number)):
            counts.add(outcome, holds=outcome == "passed")


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("inputs", "secrets", "damage", "storage", "kills", "pushes")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="which attacks to make")
    parser.add_argument("--kills", type=int, default=40, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed for what is drawn")
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
        counts, began = Counts(part), time.monotonic()
        attacks[part](counts)
        held.append(counts.report())
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(_main())
