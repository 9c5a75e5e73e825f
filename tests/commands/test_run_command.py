"""Claims about ``hf-critmom run``: somebody else's script runs as under plain python, with the names registered."""

import json
import sys

import pytest
from transformers import Trainer

from hf_critmom.commands import main
from hf_critmom.optim.factory import OPTIMIZERS

# Not a word of hf_critmom: what a script sees under `run` is compared with what it sees under plain python.
LOOK_AROUND = """
import json, os, sys

import neighbour

seen = {
    "arguments": sys.argv[1:],
    "program": os.path.abspath(sys.argv[0]),
    "name": __name__,
    "file": __file__,
    "path": sys.path[0],
    "neighbour": neighbour.__file__,
    "folder": os.getcwd(),
    "is main": sys.modules["__main__"].__dict__ is globals(),
    "docstring": __doc__,
}
names = []
if "critmom" in sys.argv:
    from transformers import HfArgumentParser, Trainer, TrainingArguments
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(["--output_dir=.", *sys.argv[-2:]])
    names = [args.optim.value, Trainer.get_optimizer_cls_and_kwargs(args)[0].__name__]
print(json.dumps([seen, names]))
print("a word to the wise", file=sys.stderr)
sys.exit(7)
"""

ARGUMENTS = ["--help", "-m", "run", "two words", "", "--dir=ü", "-h", "compare", "--", "*"]


@pytest.fixture
def script(tmp_path):
    """A script in a folder with another module, outside of the working directory."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "neighbour.py").write_text("")
    path = folder / "look_around.py"
    path.write_text(LOOK_AROUND)
    return path.relative_to(tmp_path)


def seen_by(finished):
    assert finished.returncode == 7, finished.stderr
    assert "a word to the wise" in finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def test_a_script_sees_what_it_sees_under_plain_python_and_knows_the_names(script, run_python, run_bare):
    run = ("-m", "hf_critmom", "run", str(script), *ARGUMENTS, "--optim")
    plain, _ = seen_by(run_python(str(script), *ARGUMENTS, "--optim", "sgd"))
    ours, _ = seen_by(run_python(*run, "sgd"))
    named, names = seen_by(run_bare(*run, "critmom"))
    assert plain["arguments"] == [*ARGUMENTS, "--optim", "sgd"]
    assert ours == plain
    assert named == {**plain, "arguments": [*ARGUMENTS, "--optim", "critmom"]}
    assert names == ["critmom", "CritMomSGD"]


def test_a_module_sees_what_it_sees_under_plain_python(script, run_python, tmp_path):
    (tmp_path / "neighbour.py").write_text("")
    plain, _ = seen_by(run_python("-m", "scripts.look_around", *ARGUMENTS))
    ours, _ = seen_by(run_python("-m", "hf_critmom", "run", "-m", "scripts.look_around", *ARGUMENTS))
    assert ours["arguments"] == ARGUMENTS
    assert ours == plain


def test_an_uncaught_exception_ends_in_the_scripts_own_traceback(run_python, tmp_path):
    (tmp_path / "fails.py").write_text("def train():\n    raise ValueError('no convergence')\n\n\ntrain()\n")
    finished = run_python("-m", "hf_critmom", "run", "fails.py")
    assert finished.returncode == 1
    assert finished.stdout == ""
    last_lines = finished.stderr.splitlines()
    assert last_lines[-1] == "ValueError: no convergence"
    assert any("fails.py" in line and "in train" in line for line in last_lines)
    assert "Traceback (most recent call last)" in finished.stderr


@pytest.mark.parametrize(
    ("end", "status", "left"),
    [("pass", 0, True), ("sys.exit()", 0, True), ("sys.exit(0)", 0, True), ("sys.exit(3)", 3, False)],
)
def test_the_process_group_of_a_script_that_succeeds_is_left(end, status, left, run_python, tmp_path):
    # Its threads can abort a process that ends before them, and the run would count as failed.
    start = f'init_method="file://{tmp_path}/store", rank=0, world_size=1'
    (tmp_path / "script.py").write_text(
        "import atexit, sys\nimport torch.distributed as dist\n"
        'atexit.register(lambda: print("left:", not dist.is_initialized()))\n'
        f'dist.init_process_group("gloo", {start})\n{end}\n'
    )
    finished = run_python("-m", "hf_critmom", "run", str(tmp_path / "script.py"))
    assert finished.returncode == status, finished.stderr
    assert finished.stdout.splitlines()[-1] == f"left: {left}"


@pytest.mark.parametrize("words", [["no/such script.py"], ["no/such script.py", "--optim", "critmom"]])
def test_a_missing_script_is_named_in_one_sentence(words, capsys):
    assert main(["run", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (sentence,) = said.err.splitlines()
    assert "no/such script.py" in sentence and "script" in sentence


def test_a_folder_is_no_script(tmp_path, capsys):
    assert main(["run", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("is a folder: expected the path of a Python training script.\n")
    (tmp_path / "__main__.py").write_text("print('as python would')")
    assert main(["run", str(tmp_path)]) == 0


@pytest.mark.parametrize(("words", "status"), [([], 2), (["-m"], 2), (["--fast", "train.py"], 2), (["--help"], 0)])
def test_without_a_script_the_usage_is_shown(words, status, capsys):
    assert main(["run", *words]) == status
    said = capsys.readouterr()
    assert "run [--no_damping_log] SCRIPT" in (said.err if status else said.out)


def test_its_help_names_every_optimizer(capsys):
    assert main(["run", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f" {', '.join(OPTIMIZERS)}." in said


# One script for one process and for several; dropout is off, so that processes differ in their data alone.
TRAIN = """
import json
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, HfArgumentParser, Trainer, TrainingArguments, set_seed

(args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
set_seed(0)
config = GPT2Config(
    vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
)
rows = torch.randint(0, 16, (16, 8), generator=torch.Generator().manual_seed(0))
trainer = Trainer(GPT2LMHeadModel(config), args, train_dataset=[{"input_ids": row, "labels": row} for row in rows])
trainer.train()
optimizer = trainer.optimizer.optimizer
result = {
    "world": args.world_size,
    "optimizer": type(optimizer).__name__,
    "momentum": optimizer.param_groups[0]["momentum"],
    "weights": torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()]).tolist(),
}
name = f"{args.world_size}-{args.process_index}.json"
Path(args.output_dir, name).write_text(json.dumps(result))
"""

TRAIN_WORDS = [
    *["--use_cpu", "--optim", "critmom", "--learning_rate", "0.04", "--lr_scheduler_type", "constant"],
    *["--max_steps", "4", "--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "true"],
]


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(tmp_path, run_python, monkeypatch):
    script, output = tmp_path / "train.py", tmp_path / "run"
    output.mkdir()
    script.write_text(TRAIN)
    words = [str(script), "--output_dir", str(output), *TRAIN_WORDS, "--per_device_train_batch_size"]

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    finished = run_python(*torchrun, "-m", "hf_critmom", "run", *words, "2")
    assert finished.returncode == 0, finished.stderr

    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["run", *words, "4"]) == 0

    alone, first, second = (json.loads((output / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert (alone["world"], first["world"], second["world"]) == (1, 2, 2)
    for result in (alone, first, second):
        assert result["optimizer"] == "CritMomSGD"
        assert result["momentum"] == pytest.approx(0.6, rel=1e-12)
    assert first["weights"] == second["weights"]
    assert first["weights"] == pytest.approx(alone["weights"], abs=1e-5)


# Not a word of hf_critmom but in the last class, which a script may use, too.
TRAINERS = """
import json, sys
from functools import partial
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, HfArgumentParser, Trainer, TrainingArguments

(args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(sys.argv[2:])


class OwnTrainer(Trainer):
    def __init__(self, *args, **kwargs):
        self.added = []
        super().__init__(*args, **kwargs)

    def add_callback(self, callback):
        super().add_callback(callback)
        self.added.append(callback)


def trainer_cls():
    if sys.argv[1] == "ours":
        from hf_critmom import CritMomTrainer
        return CritMomTrainer, []
    if sys.argv[1] == "callback":
        from hf_critmom import DampingCallback
        return Trainer, [DampingCallback()]
    if sys.argv[1] == "own":
        return partial(Trainer, optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None)), []
    return {"plain": Trainer, "subclass": OwnTrainer}[sys.argv[1]], []


model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2))
cls, callbacks = trainer_cls()
rows = torch.randint(0, 16, (16, 8), generator=torch.Generator().manual_seed(0))
data = [{"input_ids": row, "labels": row} for row in rows]
trainer = cls(model, args, train_dataset=data, callbacks=callbacks)
trainer.train()
trainer.create_model_card(model_name="tiny")
if trainer.is_world_process_zero():
    Path(args.output_dir, "log.json").write_text(json.dumps(trainer.state.log_history))
"""


def trained_by_run(tmp_path, monkeypatch, kind, *before):
    """Runs a script in this process; returns its log history and its card, and checks that Trainer is unchanged."""
    (tmp_path / "train.py").write_text(TRAINERS)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    methods = Trainer.__init__, Trainer.create_model_card
    output = tmp_path / "run"
    words = (str(tmp_path / "train.py"), kind, "--output_dir", str(output), *TRAIN_WORDS, "--logging_steps", "1")
    assert main(["run", *before, *words]) == 0
    assert (Trainer.__init__, Trainer.create_model_card) == methods
    return json.loads((output / "log.json").read_text()), (output / "README.md").read_text()


@pytest.mark.parametrize("kind", ["plain", "subclass", "ours", "callback"])
def test_every_trainer_of_a_script_logs_its_damping_state_once(kind, tmp_path, monkeypatch):
    log, card = trained_by_run(tmp_path, monkeypatch, kind)
    assert [record["step"] for record in log if "momentum" in record] == [1, 2, 3, 4]
    assert [record["momentum"] for record in log if "momentum" in record] == pytest.approx([0.6] * 4)
    assert "- optimizer: CritMomSGD(rule=linear" in card and "adam" not in card.lower()


def test_the_damping_log_can_be_switched_off(tmp_path, monkeypatch):
    log, card = trained_by_run(tmp_path, monkeypatch, "plain", "--no_damping_log")
    assert not [record for record in log if "momentum" in record] and len([one for one in log if "loss" in one]) == 4
    assert "- optimizer: CritMomSGD(rule=linear" in card


@pytest.mark.parametrize("kind", ["plain", "own"])
def test_a_script_that_brings_its_own_optimizer_is_told_that_ours_has_no_effect(kind, tmp_path, monkeypatch, caplog):
    trained_by_run(tmp_path, monkeypatch, kind)
    said = [record.getMessage() for record in caplog.records if "--optim" in record.getMessage()]
    own = "--optim critmom has no effect: the program gives its Trainer an optimizer of its own, SGD."
    assert said == ([own] if kind == "own" else [])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_the_damping_state_is_logged_under_launchers_too(launcher, tmp_path, run_python):
    (tmp_path / "train.py").write_text(TRAINERS)
    words = [
        "-m",
        "hf_critmom",
        "run",
        "train.py",
        "plain",
        "--output_dir",
        "run",
        *TRAIN_WORDS,
        "--logging_steps",
        "2",
    ]
    launch = {
        "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
        "accelerate": ["-m", "accelerate.commands.launch", "--num_processes", "1"],
    }
    finished = run_python(*launch[launcher], *words)
    assert finished.returncode == 0, finished.stderr
    log = json.loads((tmp_path / "run/log.json").read_text())
    assert [record["step"] for record in log if "momentum" in record] == [2, 4]
