"""Attack the command line as a hostile or unlucky user would, and count what holds.

    python scripts/attack.py [--parts inputs damage kills pushes] [--kills 40] [--seed 0]

* ``inputs``: wrong flags, values, paths and data, each a call of its own in an empty folder. One sentence on standard
  error, status 2, nothing written. A few are harmless and may be accepted, as long as they change no result.
* ``damage``: every file of a comparison, an attribution and a repair, damaged in several ways, then every command that
  reads it. One sentence and status 2, or the file is made again and the results are what they were.
* ``kills``: commands killed at random moments and started again. The results are those of an undisturbed run.
* ``pushes``: the tests of faulty pushes, ``tests/hub/test_faults.py``, against a server on the loopback interface.

It prints a count of each, and every case that did not hold; its status is 1 if there is one.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_critmom.commands import main

TINY = (
    *("--width", "2", "--num_train_epochs", "1", "--max_train_samples", "64", "--max_eval_samples", "32"),
    *("--per_device_train_batch_size", "32", "--num_seeds", "1", "--arms", "constant", "--use_cpu"),
)
LONGEST = 120
"""Seconds after which a call counts as hanging."""


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
        status: The exit status; None for a traceback, -1 if it did not end in time.
        error: What it said on standard error.
    """

    status: int | None
    error: str

    @property
    def sentence(self) -> bool:
        """Whether it is a refusal in one sentence."""
        lines = [line for line in self.error.splitlines() if ": error: " in line]
        return self.status == 2 and len(lines) == 1 and "Traceback" not in self.error


class _TooLong(BaseException):
    pass


def call(*args: str) -> Answer:
    """Calls the command line in this process."""
    out, error = io.StringIO(), io.StringIO()

    def stop(*_: Any) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            status: int | None = main(args)
    except _TooLong:
        status = -1
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else 1
    except Exception:
        error.write(traceback.format_exc())
        status = None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return Answer(status, error.getvalue())


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


# ------------------------------------------------------------------------------------------------------------- inputs

NUMBERS = (
    *("num_train_epochs", "learning_rate", "weight_decay", "warmup_steps", "max_grad_norm", "eval_steps", "save_steps"),
    *("logging_steps", "num_seeds", "seed", "per_device_train_batch_size", "per_device_eval_batch_size", "max_steps"),
    *("gradient_accumulation_steps", "label_smoothing_factor", "max_train_samples", "max_eval_samples", "split_seed"),
    *(
        "train_val_split",
        "width",
        "image_size",
        "crop_padding",
        "dataloader_num_workers",
        "learning_rate_grid",
        "targets",
    ),
)
BAD_NUMBERS = ("nan", "inf", "-inf", "-5", "1e300", "abc", "", "99999999999999")
WORDS = {
    "optim": ("critmom", "nope", ""),
    "optim_args": ("momentum=0.5", "nope"),
    "lr_scheduler_type": ("nope", ""),
    "eval_strategy": ("no", "sometimes"),
    "save_strategy": ("nope",),
    "arms": ("nope", "", "constant constant", "../x", "/etc/passwd", "timm:nope", "torch.optim.Nope", "os.system"),
    "model": ("nope", "", "resnet18x"),
    "model_name_or_path": ("nope/nope", "/nonexistent", ""),
    "dataset_name": ("nope/nope", "/nonexistent"),
    "train_dir": ("nope", "/dev/null", ""),
    "train_file": ("nope.csv", "/dev/null"),
    "arms_file": ("nope.toml", "/dev/null", ""),
    "task": ("nope", "", "/dev/null"),
    "metric": ("nope", ""),
    "metric_for_best_model": ("nope",),
    "label_names": ("foo",),
    "report_to": ("nope",),
    "deepspeed": ("x",),
    "fsdp": ("nope",),
    "resume_from_checkpoint": ("x",),
    "push_to_hub": ("true",),
    "hub_model_id": ("a/b",),
    "fp16": ("true",),
    "bf16_full_eval": ("true",),
    "prediction_loss_only": ("true",),
    "save_only_model": ("true",),
    "ignore_data_skip": ("true",),
    "eval_do_concat_batches": ("false",),
    "activation_checkpointing": ("true",),
    "use_liger_kernel": ("true",),
    "torch_compile_backend": ("nope",),
    "data_seed": ("3",),
    "adam_beta1": ("0.5",),
    "optim_target_modules": ("x",),
    "nope": ("1",),
    "tokenizer_name": ("nope/nope",),
    "dtype": ("float7",),
    "baseline": ("nope",),
    "claim": ("a < b", "", "constant <"),
    "margin": ("-1", "nan", "0"),
    "max_seeds": ("0", "-1"),
    "workers": ("0", "-1", "nan"),
    "threads_per_worker": ("0", "-1"),
}

OTHER_COMMANDS = (
    (),
    ("nope",),
    ("report",),
    ("report", "nope"),
    ("report", "/dev/null"),
    ("report", "a", "b", "--nope"),
    ("drift",),
    ("drift", "nope"),
    ("drift", ".", "--corruptions", "nope"),
    ("push",),
    ("push", "nope", "a/b"),
    ("push", ".", "a b c"),
    ("push", ".", "a/b", "--message", ""),
    ("push", ".", "a/b", "--task_id", ""),
    ("push", ".", "a/b", "--revision", "x y"),
    ("push", ".", "a/b", "--repo_type", "nope"),
    ("attribute",),
    ("attribute", "nope"),
    ("attribute", "/dev/null"),
    ("attribute", ".", "--select", "nope"),
    ("attribute", ".", "--split", "nope"),
    ("attribute", ".", "--corruption", "nope"),
    ("attribute", ".", "--num_top_groups", "0"),
    ("attribute", ".", "--seed", "-1"),
    ("attribute", ".", "."),
    ("repair",),
    ("repair", "nope"),
    ("repair", ".", "--groups", "auto", "fc"),
    ("repair", ".", "--num_seeds", "0"),
    ("repair", ".", "--eval_strategy", "epoch"),
    ("repair", ".", "--num_train_epochs", "nan"),
    ("repair", ".", "--learning_rate", "-1"),
    ("run",),
    ("run", "nope.py"),
    ("run", "-x"),
)


def _bad_data(folder: Path) -> list[tuple[str, ...]]:
    """Folders and files that cannot be used, with the flags that name them."""
    from PIL import Image

    def image(path: str, content: bytes | None = None) -> None:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.new("L", (8, 8)).save(file)
        else:
            file.write_bytes(content)

    (folder / "empty").mkdir()
    image("one/a/1.png")
    image("loose/1.png")
    for name in "ab":
        for number in range(8):
            image(f"broken/{name}/{number}.png", None if number else b"not an image")
            image(f"nested/{name}/deep/{number}.png")
            image(f"cut/{name}/{number}.png")
    cut = folder / "cut/a/0.png"
    cut.write_bytes(cut.read_bytes()[:40])
    texts = {
        "empty.txt": b"",
        "binary.txt": b"\xff\xfe\x00\x01" * 100,
        "ragged.csv": b"text,label\na,1\nb\nc,2,3\n",
        "semicolon.csv": b"text;label\nwords;1\nmore;2\n",
        "broken.json": b'{"text": ',
        "list.json": b"[1, 2, 3]",
        "no_text.csv": b"a,b\n1,2\n",
        "table.tsv": b"text\tlabel\nwords\t1\n",
        "broken.parquet": b"PAR1 nothing",
        "words.docx": b"PK\x03\x04",
    }
    for name, content in texts.items():
        (folder / name).write_bytes(content)
    folders = ("empty", "one", "loose", "broken", "nested", "cut", "v[2]", "*")
    images = [("--train_dir", str(folder / name)) for name in folders]
    return images + [("--task", "text", "--train_file", str(folder / name)) for name in texts]


def attack_inputs(counts: Counts, seed: int) -> None:
    """Calls the commands with what cannot be used."""
    cases: list[tuple[str, ...]] = []
    for flag in NUMBERS:
        cases += [("compare", *TINY, f"--{flag}", value) for value in BAD_NUMBERS]
    for flag, values in WORDS.items():
        cases += [("compare", *TINY, f"--{flag}", *(value.split(" ") if value else [""])) for value in values]
    cases += OTHER_COMMANDS
    with tempfile.TemporaryDirectory() as data:
        cases += [("compare", *TINY[:-4], "--arms", "constant", "--use_cpu", *flags) for flags in _bad_data(Path(data))]
        for case in cases:
            with empty_folder() as folder:
                answer = call(*case)
                written = [str(path) for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts]
            shown = " ".join(arg if arg else "''" for arg in case if arg not in TINY or arg in case[-2:])
            if answer.sentence or (not case and answer.status == 2):
                counts.add("refused in a sentence", shown)
                if written:
                    counts.add("refused, but files were written", f"{shown}: {written[:3]}", holds=False)
            elif answer.status == 0:
                counts.add("accepted", shown, holds=False)
            elif answer.status == -1:
                counts.add("hung", shown, holds=False)
            elif answer.status == 2 and case[:1] == ("run",):
                counts.add("usage", shown)
            else:
                counts.add("traceback or other", f"{shown}: {answer.status} {answer.error[-300:]!r}", holds=False)


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
}


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
        for name, value in (
            ("null", None),
            ("a text", "x"),
            ("a number", -1),
            ("a list", [None]),
            ("an object", {"x": 1}),
        ):
            found[f"{key} is {name}"] = json.dumps({**stored, key: value}).encode()
        found[f"without {key}"] = json.dumps({name: value for name, value in stored.items() if name != key}).encode()
    return found


CLOCKS = ("seconds", "load", "wall", "versions", "per_second", "command", "date", "history", "runtime")


def _results(folder: Path) -> dict[str, Any]:
    """Everything that a command found, without what a clock measured."""
    found = {}
    for name in ("result.json", "attribution.json", "drift.json", "diagnosis.json", "changed_examples.json"):
        for file in folder.rglob(name):
            found[str(file.relative_to(folder))] = _without_clocks(json.loads(file.read_text()))
    return found


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        clocks = ("seconds", "load", "wall", "versions", "per_second", "command", "date", "history", "runtime")
        return {
            name: _without_clocks(item) for name, item in value.items() if not any(clock in name for clock in clocks)
        }
    return [_without_clocks(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Work:
    """A command with the folder that it writes."""

    name: str
    folder: str
    args: tuple[str, ...]
    reads: tuple[tuple[str, ...], ...]


RUN = "c/runs/constant/seed-42"
DATA = ("--max_train_samples", "64", "--max_eval_samples", "32")
WORKS = (
    Work("compare", "c", ("compare", *TINY, "--output_dir", "c"), (("report", "c"),)),
    Work("drift", "c", ("drift", "c", "--corruptions", "contrast", "--max_eval_samples", "16"), (("report", "c"),)),
    Work("attribute", "a", ("attribute", RUN, *DATA, "--use_cpu", "--output_dir", "a"), ()),
    Work(
        "repair",
        "r",
        ("repair", RUN, *DATA, "--use_cpu", "--num_train_epochs", "1", "--output_dir", "r"),
        (),
    ),
)


def attack_damage(counts: Counts, seed: int) -> None:
    """Damages every file that the commands wrote, and calls everything that reads it."""
    draw = random.Random(seed)
    with empty_folder() as folder:
        for work in WORKS:
            answer = call(*work.args)
            if answer.status != 0:
                raise SystemExit(f"{work.name} failed undamaged: {answer.error}")
        sound = Path("sound")
        for name in ("c", "a", "r"):
            shutil.copytree(name, sound / name)
        for work in WORKS:
            expected = _results(sound / work.folder)
            files = [file for file in sorted((sound / work.folder).rglob("*")) if file.suffix in (".json", ".parquet")]
            files = [file for file in files if ".locks" not in file.parts and file.stat().st_size < 2**20]
            for file in files:
                content = file.read_bytes()
                damages = {name: damage(content) for name, damage in DAMAGES.items()}
                tampered = _tampered(content)
                chosen = draw.sample(sorted(tampered), min(len(tampered), 8))
                for name, damaged in {**damages, **{one: tampered[one] for one in chosen}}.items():
                    for args in (*work.reads, work.args):
                        place = Path(file.relative_to(sound))
                        for one in ("c", "a", "r"):
                            shutil.rmtree(one, ignore_errors=True)
                            shutil.copytree(sound / one, one)
                        place.write_bytes(damaged)
                        answer, case = call(*args), f"{work.name}, {place}: {name}, then {args[0]}"
                        if answer.sentence:
                            counts.add("one sentence", case)
                        elif answer.status == 0 and _results(Path(work.folder)) == expected:
                            counts.add("same results", case)
                        elif answer.status == 0:
                            counts.add("other results", case, holds=False)
                        else:
                            counts.add("traceback or hung", f"{case}: {answer.error[-300:]!r}", holds=False)
        del folder


# -------------------------------------------------------------------------------------------------------------- kills


def attack_kills(counts: Counts, seed: int, kills: int) -> None:
    """Kills commands at random moments and starts them again."""
    draw = random.Random(seed)
    saves = ("--save_strategy", "epoch", "--num_train_epochs", "6")
    works = [
        (WORKS[0], (*WORKS[0].args, *saves)),
        (WORKS[1], WORKS[1].args),
        (WORKS[2], WORKS[2].args),
        (WORKS[3], (*WORKS[3].args, *saves)),
    ]
    program = [sys.executable, "-m", "hf_critmom"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with empty_folder():
        expected, took = [], []
        for work, args in works:
            before = Path(f"before-{work.name}")
            before.mkdir()
            for name in ("c", "a", "r"):
                if Path(name).exists():
                    shutil.copytree(name, before / name)
            began = time.monotonic()
            subprocess.run([*program, *args], check=True, capture_output=True, env=environment)
            took.append(time.monotonic() - began)
            expected.append(_results(Path(work.folder)))
        for number in range(kills):
            place = number % len(works)
            (work, args), case = works[place], f"{works[place][0].name}, kill {number}"
            for name in ("c", "a", "r"):
                shutil.rmtree(name, ignore_errors=True)
            for kept in Path(f"before-{work.name}").iterdir():
                shutil.copytree(kept, kept.name)
            process = subprocess.Popen(
                [*program, *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(took[place] * draw.uniform(0.3, 1.0))
            process.kill()
            ended = process.wait() == 0
            again = subprocess.run([*program, *args], capture_output=True, text=True, env=environment, timeout=600)
            if again.returncode != 0:
                counts.add("could not be continued", f"{case}: {again.stderr[-300:]!r}", holds=False)
            elif _results(Path(work.folder)) != expected[place]:
                counts.add("other results", case, holds=False)
            else:
                counts.add("had ended before the kill" if ended else "continued with the same results", case)


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
    parts = ("inputs", "damage", "kills", "pushes")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="which attacks to make")
    parser.add_argument("--kills", type=int, default=40, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed for what is drawn")
    args = parser.parse_args()
    attacks: dict[str, Callable[[Counts], None]] = {
        "inputs": lambda counts: attack_inputs(counts, args.seed),
        "damage": lambda counts: attack_damage(counts, args.seed),
        "kills": lambda counts: attack_kills(counts, args.seed, args.kills),
        "pushes": attack_pushes,
    }
    os.environ["HF_HUB_OFFLINE"] = "1"
    held = []
    for part in args.parts:
        counts, began = Counts(part), time.monotonic()
        attacks[part](counts)
        held.append(counts.report())
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(_main())
