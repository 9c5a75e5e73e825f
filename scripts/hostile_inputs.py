"""Invalid and harmless calls of the command line, for `attack.py`."""

import os
import resource
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TINY = (
    *("--width", "2", "--num_train_epochs", "1", "--max_train_samples", "64", "--max_eval_samples", "32"),
    *("--per_device_train_batch_size", "32", "--num_seeds", "1", "--arms", "constant", "--use_cpu", "--workers", "1"),
)


@dataclass(frozen=True)
class Case:
    """A call of the command line.

    Attributes:
        args: Arguments, the subcommand first.
        environment: Environment variables.
        arrange: Prepares the working directory.
        prepare: Prepares the process.
        harmless: Whether the call may be accepted, with the same results as without what it adds.
        statuses: Accepted exit statuses of a harmless call.
        usage: Whether the answer may be the usage.
        writes: Whether the call may leave files when it is refused.
        reads_only: Whether the call has no results.
        secret: A secret that must not be in any file or in the output.
        note: What is special about the call, if the arguments do not show it.
    """

    args: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    arrange: Callable[[Path], object] = lambda folder: None
    prepare: Callable[[], object] = lambda: None
    harmless: bool = False
    statuses: tuple[int, ...] = (0,)
    usage: bool = False
    writes: bool = False
    reads_only: bool = False
    secret: str = ""
    note: str = ""

    @property
    def shown(self) -> str:
        """The call in one line, without the flags that all calls have."""
        args = list(self.args)
        for place in range(len(args) - len(TINY) + 1):
            if tuple(args[place : place + len(TINY)]) == TINY:
                args[place : place + len(TINY)] = ["..."]
                break
        settings = "".join(f"{name}={value!r} " for name, value in self.environment.items())
        note = f" ({self.note})" if self.note else ""
        return f"{settings}{' '.join(ascii(arg)[1:-1] or repr(arg) for arg in args)}{note}"[:300]


def compare(*flags: str, **others: Any) -> Case:
    """A small comparison with more flags, which override those of `TINY`."""
    names = {flag.partition("=")[0] for flag in flags if flag.startswith("--")}
    kept, skipping = [], False
    for arg in TINY:
        skipping = arg in names if arg.startswith("--") else skipping
        kept += [] if skipping else [arg]
    return Case(("compare", *(kept if names & set(TINY) else TINY), *flags), **others)


NUMBERS = (
    *("num_train_epochs", "learning_rate", "weight_decay", "warmup_steps", "max_grad_norm", "eval_steps", "save_steps"),
    *("logging_steps", "num_seeds", "seed", "per_device_train_batch_size", "per_device_eval_batch_size", "max_steps"),
    *("gradient_accumulation_steps", "label_smoothing_factor", "max_train_samples", "max_eval_samples", "split_seed"),
    *("train_val_split", "width", "image_size", "crop_padding", "dataloader_num_workers", "learning_rate_grid"),
    *("targets", "step_grid", "weight_decay_grid", "margin", "max_seeds", "workers", "threads_per_worker"),
    *("evaluations_per_epoch",),
)
BAD_NUMBERS = ("nan", "inf", "-5", "1e300", "abc", "", "99999999999999", "0x10", "1,5")
HARMLESS = (
    *(("max_grad_norm", "1e300"), ("save_steps", "1e300")),
    *(("seed", "+42"), ("seed", "4_2"), ("num_train_epochs", "\u0661"), ("run_name", "../../x"), ("num_seeds", " 1 ")),
)
"""Flags and values that do not change results, such as unusual spellings of numbers."""
ALSO_HARMLESS = {
    *(("max_grad_norm", "99999999999999"), ("save_steps", "99999999999999"), ("logging_steps", "99999999999999")),
    *(("logging_steps", "1e300"),),
}
WORDS = {
    "optim": ("critmom", "nope", ""),
    "optim_args": ("momentum=0.5", "nope"),
    "lr_scheduler_type": ("nope", ""),
    "lr_scheduler_kwargs": ("nope", "[1]", '{"a": NaN}', "{" * 5000),
    "eval_strategy": ("no", "sometimes"),
    "save_strategy": ("nope",),
    "arms": (
        *("nope", "", "constant constant", "../x", "/etc/passwd", "timm:nope", "torch.optim.Nope", "os.system"),
        *("constant[lr=1e300]", "constant[lr=-1]", "constant[nope=1]", "constant[", "constant[momentum=nan]"),
        *("timm:lion[lr=__import__('os')]", "constant\n", "c\u00f6nstant", "\x1b[31mred", "constant[name=../x]"),
        *("subprocess.Popen", "builtins.exec", "timm:lion[name=paper]", "constant[" + "(" * 5000),
    ),
    "model": ("nope", "", "resnet18x"),
    "model_name_or_path": ("nope/nope", "/nonexistent", ""),
    "dataset_name": ("nope/nope", "/nonexistent", "json", "hf://x/y", "https://nope.invalid/x"),
    "train_dir": ("nope", "/dev/null", "", "loop", "fifo", "~nobody/x"),
    "train_file": ("nope.csv", "/dev/null"),
    "arms_file": ("nope.toml", "/dev/null", "", "/dev/zero", "fifo", "loop", "/proc/self/mem"),
    "output_dir": ("", "x" * 300, "loop", "loop/x", "fifo", "nowhere", "/dev/full", "/proc/x", "a\udcff"),
    "task": ("nope", "", "/dev/null"),
    "metric": ("nope", ""),
    "metric_for_best_model": ("nope",),
    "label_names": ("foo",),
    "report_to": ("nope",),
    "deepspeed": ("x",),
    "fsdp": ("nope",),
    "accelerator_config": ("nope", "/dev/zero", '{"nope": 1}'),
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
    "baseline": ("nope", ""),
    "claim": ("a < b", "", "constant <", "constant < constant"),
}

OTHER_COMMANDS = (
    (),
    ("nope",),
    ("report",),
    ("report", "nope"),
    ("report", "/dev/null"),
    ("report", "loop"),
    ("report", "x" * 300),
    ("report", "a", "b", "--nope"),
    ("drift",),
    ("drift", "nope"),
    ("drift", ".", "--corruptions", "nope"),
    ("drift", ".", "--max_eval_samples", "-1"),
    ("push",),
    ("push", "nope", "a/b"),
    ("push", ".", "a b c"),
    ("push", ".", "a/b", "--message", ""),
    ("push", ".", "a/b", "--task_id", ""),
    ("push", ".", "a/b", "--revision", "x y"),
    ("push", ".", "a/b", "--repo_type", "nope"),
    ("push", ".", "../../etc"),
    ("attribute",),
    ("attribute", "nope"),
    ("attribute", "/dev/null"),
    ("attribute", "loop"),
    ("attribute", "x" * 300),
    ("attribute", ""),
    ("attribute", ".", "--select", "nope"),
    ("attribute", ".", "--split", "nope"),
    ("attribute", ".", "--corruption", "nope"),
    ("attribute", ".", "--num_top_groups", "0"),
    ("attribute", ".", "--seed", "-1"),
    ("attribute", ".", "--seed", "99999999999"),
    ("attribute", ".", "--output_dir", ""),
    ("attribute", ".", "."),
    ("repair",),
    ("repair", "nope"),
    ("repair", "loop"),
    ("repair", ""),
    ("repair", ".", "--groups", "auto", "fc"),
    ("repair", ".", "--num_seeds", "0"),
    ("repair", ".", "--eval_strategy", "epoch"),
    ("repair", ".", "--num_train_epochs", "nan"),
    ("repair", ".", "--num_train_epochs", "inf"),
    ("repair", ".", "--learning_rate", "-1"),
    ("repair", ".", "--learning_rate", "1e300"),
    ("repair", ".", "--seed", "4294967296"),
    ("repair", ".", "--output_dir", "."),
    ("doctor",),
    ("doctor", "nope"),
    ("doctor", "loop"),
    ("doctor", "x" * 300),
    ("doctor", "."),
    ("doctor", ".", "--targets", "x"),
    ("merge",),
    ("merge", "nope"),
    ("merge", "nope", "--output_dir", "o"),
    ("merge", "loop", "--output_dir", "o"),
    ("merge", "x" * 300, "--output_dir", "o"),
    ("merge", ".", "--output_dir", "loop"),
    ("merge", "", "--output_dir", ""),
    ("merge", "hf://", "--output_dir", "o"),
    ("merge", "hf://datasets/../../etc", "--output_dir", "o"),
    ("merge", "hf://datasets/a/b@x y", "--output_dir", "o"),
    ("merge", "/dev/null", "--output_dir", "o"),
    ("run",),
    ("run", "nope.py"),
    ("report", "a", "b", "--output_dir", "loop"),
    ("report", "a", "a"),
    ("compare", "--script", "nope.py", "--metric", "eval_split"),
    ("compare", "--script", "loop"),
    ("compare", "--script", "fifo"),
    ("compare", "--script"),
    ("compare", "--script", "-m"),
    ("run", "-x"),
)

LOGS = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "an object": b"{}",
    "too deep": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe",
    "no log": b'{"global_step": 3, "log_history": null}',
    "texts in the log": b'{"global_step": 3, "log_history": ["x", null]}',
    "a step that is a text": b'{"global_step": 3, "log_history": [{"step": "x", "loss": 1.0}]}',
    "a loss that is a list": b'{"global_step": 3, "log_history": [{"step": 1, "loss": [1]}]}',
    "a step that is too large": b'{"global_step": 3, "log_history": [{"step": 1e999, "loss": 1.0}]}',
    "steps that go back": b'{"global_step": 3, "log_history": [{"step": 2, "loss": 1.0}, {"step": -1, "loss": 1.0}]}',
}
"""Contents of ``trainer_state.json``; some of them can be examined in part."""

ARMS_FILES = {
    "null.json": b"null",
    "list.json": b"[1]",
    "cycle.toml": b"[a]\noptimizer = 'a'\n",
    "duplicate.toml": b"[a]\noptimizer = 'sgd'\n[a]\noptimizer = 'sgd'\n",
    "latin1.toml": b"[a]\noptimizer = 'sgd' # \xe9\n",
    "utf16.toml": "[a]\noptimizer = 'sgd'\n".encode("utf-16"),
    "nan.toml": b"[a]\noptimizer = 'critmom'\nlearning_rate = nan\n",
    "huge.toml": b"[a]\noptimizer = 'critmom'\nlearning_rate = 1e300\n",
    "boolean.toml": b"[a]\noptimizer = 'critmom'\nlearning_rate = true\n",
    "path.toml": b"['../x']\noptimizer = 'critmom'\n",
    "control.toml": b'["\\u001b[31m"]\noptimizer = "critmom"\n',
    "color.toml": b"[a]\noptimizer = 'critmom'\ncolor = 'red; background: url(x)'\n",
    "code.toml": b"[a]\noptimizer = 'os.system'\n",
    "date.toml": b"[a]\noptimizer = 'critmom'\noptions = {rule = 1979-05-27}\n",
    "deep.json": b'{"a":' * 100_000,
    "nothing.toml": b"",
    "schedule.toml": b"[a]\noptimizer = 'critmom'\nschedule = ['cosine']\n",
    "optimizer.toml": b"[a]\noptimizer = ['critmom']\n",
    "unknown.toml": b"[a]\noptimizer = 'critmom'\nnope = 1\n",
}


def input_cases() -> Iterator[Case]:
    """Calls with invalid input, and a few harmless ones."""
    for flag in NUMBERS:
        for value in BAD_NUMBERS:
            if (flag, value) not in ALSO_HARMLESS and (flag, value) not in HARMLESS:
                enough = flag in ("max_train_samples", "max_eval_samples") and value == "99999999999999"
                if not enough:  # means all samples
                    yield compare(f"--{flag}", value)
    for flag, value in HARMLESS:
        yield compare(f"--{flag}", value, harmless=True)
    for flag, values in WORDS.items():
        for value in values:
            words = value.split(" ") if flag == "arms" and value else [value]
            task = ("--task", "text") if flag in ("train_file", "tokenizer_name") else ()
            yield compare(*task, f"--{flag}", *words, arrange=_odd_paths)
    yield from (Case(args, arrange=_odd_paths, usage=args[:1] in ((), ("run",))) for args in OTHER_COMMANDS)
    for name, content in ARMS_FILES.items():
        arms = ("--arms", "a") if name != "path.toml" else ("--arms", "../x")
        yield compare("--arms_file", name, *arms, arrange=_writes(name, content))
    for name, content in LOGS.items():
        arrange = _writes("trainer_state.json", content)
        yield Case(("doctor", "."), arrange=arrange, harmless=True, reads_only=True, note=name)
    yield compare("--arms", "constant", "--arms", "critmom")
    yield compare("--claim", "all < constant", "--claim", "constant < all")
    yield from _environments()


def _environments() -> Iterator[Case]:
    """Calls in unusual environments."""
    for name, value in (
        *(("HF_HOME", "/proc/nowhere"), ("HF_ENDPOINT", "nonsense://"), ("CUDA_VISIBLE_DEVICES", "5")),
        *(("COLUMNS", "20"), ("COLUMNS", "abc"), ("TERM", "nope"), ("TZ", "Nowhere/Nope"), ("NO_COLOR", "1")),
        *(("LC_ALL", "C"), ("MPLBACKEND", "nope"), ("TQDM_DISABLE", "x"), ("PYTHONHASHSEED", "7"), ("HOME", "/proc/x")),
    ):
        yield compare(environment={name: value}, harmless=True)
    for name, value in (("WORLD_SIZE", "abc"), ("LOCAL_RANK", "x"), ("TMPDIR", "/nowhere"), ("OMP_NUM_THREADS", "abc")):
        yield compare(environment={name: value}, harmless=True)
    yield compare(prepare=lambda: os.close(0), harmless=True, note="no standard input")
    yield compare(prepare=_closed_pipe, harmless=True, statuses=(0, 1, 141), note="standard output is closed")
    yield compare(prepare=lambda: os.umask(0o777), harmless=True, note="umask 777")
    limited = (2**16, 2**16)
    yield compare(
        prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limited), writes=True, note="files of 64 KiB at most"
    )
    yield compare(prepare=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24)), harmless=True, note="24 files")


def _closed_pipe() -> None:
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(reading)
    os.close(writing)


def _odd_paths(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("nothing/x")
    os.mkfifo(folder / "fifo")


def _writes(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


# --------------------------------------------------------------------------------------------------------------- data

TEXTS = {
    "empty.txt": b"",
    "binary.txt": b"\xff\xfe\x00\x01" * 100,
    "ragged.csv": b"text,label\na,1\nb\nc,2,3\n",
    "semicolon.csv": b"text;label\nwords;1\nmore;2\n",
    "broken.json": b'{"text": ',
    "list.json": b"[1, 2, 3]",
    "null.json": b"null",
    "nulls.jsonl": b'{"text": "words"}\nnull\n',
    "deep.json": b"[" * 100_000,
    "infinite.json": b'{"text": 1e999}',
    "no_text.csv": b"a,b\n1,2\n",
    "table.tsv": b"text\tlabel\nwords\t1\n",
    "broken.parquet": b"PAR1 nothing",
    "words.docx": b"PK\x03\x04",
    "WORDS.CSV": b"text\n\xff\n",
    "short.txt": b"words",
}


def bad_data(folder: Path) -> Iterator[Case]:
    """Creates invalid data; yields calls that name it."""
    from PIL import Image

    def image(path: str, content: bytes | None = None, size: tuple[int, int] = (8, 8)) -> None:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.new("L", size).save(file, "PNG")
        else:
            file.write_bytes(content)

    (folder / "empty").mkdir()
    image("one/a/1.png")
    image("loose/1.png")
    for name in ("a", "b"):
        for number in range(12):
            image(f"broken/{name}/{number}.png", None if number else b"not an image")
            image(f"nested/{name}/deep/{number}.png")
            for good in ("cut", "good", "nulls", "outside", "sizes", "bomb", "links", "escape/\x1b[31m"):
                image(f"{good}/{name}/{number}.png")
    cut = folder / "cut/a/0.png"
    cut.write_bytes(cut.read_bytes()[:40])
    image("sizes/a/13.png", size=(9, 5))
    image("bomb/a/13.png", size=(15000, 15000))
    (folder / "links/a/13.png").symlink_to("/etc/passwd")
    (folder / "links/b/up").symlink_to("..")
    (folder / "nulls/metadata.jsonl").write_text("null\n")
    (folder / "outside/metadata.csv").write_text("file_name,label\n../../../etc/passwd,1\n")
    for name in ("empty", "one", "loose", "broken", "nested", "cut", "sizes", "bomb", "links", "escape", "v[2]", "*"):
        yield compare("--train_dir", str(folder / name))
    good = str(folder / "good")
    yield compare("--train_dir", good, "--output_dir", str(folder / "good/out"))
    yield compare("--train_dir", good, "--output_dir", str(folder / "good/a/out"))
    yield compare("--dataset_name", good, "--output_dir", good)
    yield compare("--dataset_name", str(folder / "nulls"))
    yield compare("--dataset_name", str(folder / "outside"))
    for name, content in TEXTS.items():
        for place in (folder / name, folder / f"as-dataset-{name}" / name):
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(content)
        yield compare("--task", "text", "--train_file", str(folder / name))
        yield compare("--task", "text", "--dataset_name", str(folder / f"as-dataset-{name}"))
        yield compare("--dataset_name", str(folder / f"as-dataset-{name}"))


# ------------------------------------------------------------------------------------------------------------ secrets


def secret_cases() -> Iterator[Case]:
    """Calls with a secret somewhere."""
    token = "hf_" + "abcDEF123" * 4
    password = "pa55-w0rd-of-mine"
    arms = f"[a]\noptimizer = 'critmom'\nhelp = 'with {token}'\n".encode()
    options = f"[a]\noptimizer = 'torch.optim.SGD'\noptions = {{momentum = 0.5, api_key = '{password}x1'}}\n".encode()
    flagged = (
        *(("--hub_token", token), (f"--hub_token={password}",), ("--hub_token", token, "--num_seeds", "abc")),
        *(("--token", token), ("--api_key", password), ("--run_name", token), ("--project", f"x-{token}")),
        *(("--report_to", token), ("--report_to", f"wandb:{token}"), ("--optim_args", f"token={token}")),
        *(("--dataset_name", f"https://user:{password}@hub.invalid/x"), ("--dataset_name", f"me/{token}")),
        *(("--model_name_or_path", f"https://{token}@hub.invalid/x"), ("--train_dir", f"/data/{token}")),
        *(("--task", token), ("--arms", token), ("--arms", f"constant[name={token}]"), ("--claim", f"a < {token}")),
        *(("--arms", f"constant[api_key={password}]"), ("--baseline", token), ("--metric", token)),
        *(("--lr_scheduler_kwargs", f'{{"token": "{token}"}}'), ("--accelerator_config", f'{{"token": "{token}"}}')),
        *(("--trackio_space_id", f"me/{token}"), ("--lr_scheduler_type", token), ("--num_train_epochs", token)),
        *(("--output_dir", f"out-{token}"), ("--push_to_hub_token", token), ("--ddp_backend", token)),
    )
    for flags in flagged:
        secret = password if any(password in flag for flag in flags) else token
        yield compare(*flags, secret=secret, note=shlex.join(flags).replace(secret, "SECRET"))
    yield compare("--arms_file", "arms.toml", "--arms", "a", secret=token, arrange=_writes("arms.toml", arms))
    yield compare("--arms_file", "arms.toml", "--arms", "a", secret=password, arrange=_writes("arms.toml", options))
    for name in ("HF_TOKEN", "WANDB_API_KEY", "HUGGING_FACE_HUB_TOKEN", "COMET_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        yield compare(environment={name: password}, secret=password, note="in the environment")
    yield compare("--run_name", password, environment={"HF_TOKEN": password}, secret=password)
    yield Case(("push", "nope", "a/b", "--token", token), secret=token)
    yield Case(("push", "nope", f"{token}/b"), secret=token)
    yield Case(("push", "nope", "a/b", "--message", token), secret=token)
    yield Case(("push", "nope", "a/b", "--revision", f"{token} x"), secret=token)
    yield Case(("report", token), secret=token)
    yield Case(("doctor", token), secret=token)
    yield Case(("merge", f"hf://datasets/x:{token}@a/b", "--output_dir", "o"), secret=token)
    yield Case(("merge", "nope", "--output_dir", "o", "--token", token), secret=token)
    yield Case(("drift", f"https://user:{password}@x/y"), secret=password)
    yield Case(("attribute", f"https://user:{password}@x/y"), secret=password)
    yield Case(("repair", f"me/{token}"), secret=token)
    yield Case((token,), secret=token)
    yield compare(environment={"WANDB_PROJECT": f"x-{token}"}, secret=token)
    yield Case(("report", "a", "b", "--output_dir", f"out-{token}"), secret=token)
    reading = b"open(word).read() if word.endswith('.json') else ''"
    script = b"import sys\nfor word in sys.argv: print(word, " + reading + b")\nsys.exit(3)\n"
    stored = f'{{"hub_token": "{password}", "note": "{token}"}}'.encode()

    def arrange(folder: Path) -> None:
        (folder / "train.py").write_bytes(script)
        (folder / "args.json").write_bytes(stored)

    by_script = ("compare", "--script", "train.py", "--arms", "adamw", "--workers", "1")
    for args, secret in (
        *((("--my_token", password), password), (("--note", token), token), (("args.json",), password)),
        *((("args.json",), token), ((f"--api_key={password}", "--x"), password)),
    ):
        yield Case((*by_script, "--", *args), secret=secret, arrange=arrange, note="a script that prints all of it")
