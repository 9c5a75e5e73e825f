"""Claims about the callbacks: they log what was measured, and a run goes the same way without them, to the bit."""

import json
import logging
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import GradientState
from helpers import attribution_programs as programs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from hf_critmom import Attribution, AttributionCallback, CritMomTrainer, GradientNormCallback, attribute_gradients
from hf_critmom.attribution import AttributionError, layer_groups
from hf_critmom.tasks import DataArguments, ModelArguments, build_model, load_task
from hf_critmom.training.history import HISTORY_FILE, read_history

STEPS = 12
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.fixture(scope="module")
def task():
    return load_task(DataArguments(max_train_samples=128, max_eval_samples=60))


@pytest.fixture
def make_trainer(task, tmp_path):
    """Makes a Trainer of a tiny ResNet with dropout: ``make_trainer(Trainer, callbacks=..., eval_steps=2)``."""

    def make(trainer_cls=Trainer, folder="run", *, callbacks=(), eval_dataset=None, model=None, **fields):
        if model is None:
            model = build_model(task, ModelArguments(width=2), seed=0)
            model.resnet.drop_rate = 0.3
        args = TrainingArguments(
            **{
                "output_dir": str(tmp_path / folder),
                "use_cpu": True,
                "optim": "critmom",
                "learning_rate": 0.1,
                "max_steps": STEPS,
                "per_device_train_batch_size": 16,
                "per_device_eval_batch_size": 25,
                "eval_strategy": "steps",
                "eval_steps": 4,
                "logging_steps": 3,
                "save_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
                "remove_unused_columns": False,
                "dataloader_pin_memory": False,
                **fields,
            }
        )
        trainer = trainer_cls(
            model,
            args,
            train_dataset=task.train,
            eval_dataset=task.validation if eval_dataset is None else eval_dataset,
            data_collator=task.collator,
            compute_metrics=task.compute_metrics,
            preprocess_logits_for_metrics=task.preprocess_logits,
            callbacks=[*callbacks, *task.callbacks()],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    return make


def watched(make_trainer, *arguments, callback=AttributionCallback, options=None, **fields):
    """A plain Trainer with a callback that was given it."""
    trainer = make_trainer(*arguments, **fields)
    trainer.add_callback(callback(trainer, **(options or {})))
    return trainer


def attributions_in(trainer, prefix="eval"):
    """Step and shares of each record that the callback logged."""
    begin = f"{prefix}_attribution/"
    return [
        (record["step"], {name.removeprefix(begin): value for name, value in record.items() if name.startswith(begin)})
        for record in trainer.state.log_history
        if any(name.startswith(begin) for name in record)
    ]


def norms_in(trainer):
    begin = "gradient_norm/"
    return {
        record["step"]: {name.removeprefix(begin): value for name, value in record.items() if name.startswith(begin)}
        for record in trainer.state.log_history
        if any(name.startswith(begin) for name in record)
    }


# ------------------------------------------------------------------------------------------------------- what is logged


@pytest.mark.parametrize("kind", ["plain Trainer", "CritMomTrainer", "CritMomTrainer, added later"])
def test_each_evaluation_logs_the_shares_of_its_own_mistakes(make_trainer, task, tmp_path, kind):
    if kind == "plain Trainer":
        trainer = watched(make_trainer)
    elif kind == "CritMomTrainer":
        trainer = make_trainer(CritMomTrainer, callbacks=[AttributionCallback()])
    else:
        trainer = make_trainer(CritMomTrainer)
        trainer.add_callback(AttributionCallback)
    trainer.train()
    found = attributions_in(trainer)
    assert [step for step, _ in found] == [4, 8, 12]
    for _, shares in found:
        assert tuple(shares) == layer_groups(trainer.model).names
        assert sum(shares.values()) == pytest.approx(1.0)
        assert all(type(value) is float for value in shares.values())
    afterwards = attribute_gradients(trainer.model, DataLoader(task.validation, 25, collate_fn=task.collator))
    assert found[-1][1] == pytest.approx(afterwards.shares, rel=1e-4)
    history = read_history(tmp_path / "run")
    assert [(entry["step"], entry["prefix"]) for entry in history] == [(4, "eval"), (8, "eval"), (12, "eval")]
    last = {name: value for name, value in history[-1].items() if name not in ("step", "epoch", "prefix")}
    assert Attribution.from_dict(last).shares == pytest.approx(found[-1][1])
    evaluated = [record for record in trainer.state.log_history if "eval_accuracy" in record]
    assert Attribution.from_dict(last).accuracy == pytest.approx(evaluated[-1]["eval_accuracy"])


def test_a_run_goes_the_same_way_with_callbacks_and_without(make_trainer):
    plain = make_trainer(seed=3)
    plain.train()
    seen = make_trainer(folder="seen", seed=3)
    seen.add_callback(AttributionCallback(seen, select="all"))
    seen.add_callback(GradientNormCallback(seen))
    seen.train()
    ours, theirs = plain.model.state_dict(), seen.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)  # BatchNorm's statistics among them
    for record, other in zip(*(evaluations(trainer) for trainer in (plain, seen)), strict=True):
        assert record == other
    assert torch.equal(plain.model.resnet.bn1.running_mean, seen.model.resnet.bn1.running_mean)


class Masking:
    """A collator that masks tokens by a generator of its own, as the one of Transformers does with a seed."""

    def __init__(self, kind):
        self.generator = torch.Generator().manual_seed(42)
        self.numbers = np.random.default_rng(42)
        self.kind = kind

    def __call__(self, rows):
        ids = torch.stack([row["input_ids"] for row in rows])
        drawn = torch.rand(ids.shape, generator=self.generator)
        if self.kind == "numpy":
            drawn = torch.from_numpy(self.numbers.random(ids.shape))
        return {"input_ids": ids, "labels": ids.masked_fill(drawn < 0.3, -100)}


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_run_whose_collator_has_a_generator_goes_the_same_way(tmp_path, kind):
    rows = torch.randint(0, 16, (24, 8), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row} for row in rows]

    def parameters(*callbacks):
        args = TrainingArguments(
            str(tmp_path), use_cpu=True, num_train_epochs=3, eval_strategy="epoch", report_to="none", disable_tqdm=True,
            learning_rate=0.1, save_strategy="no",
        )  # fmt: skip
        trainer = CritMomTrainer(
            tiny_language_model(), args, train_dataset=data, eval_dataset=data[:16], data_collator=Masking(kind),
            callbacks=list(callbacks),
        )  # fmt: skip
        trainer.train()
        assert bool(attributions_in(trainer)) == bool(callbacks)
        return list(trainer.model.parameters())

    plain, seen = parameters(), parameters(AttributionCallback())
    assert all(torch.equal(one, other) for one, other in zip(plain, seen, strict=True))


def test_a_failed_attribution_leaves_no_evaluation_loader_behind(make_trainer):
    fails_midway = watched(make_trainer, max_steps=4, options={"groups": ["fc"]})

    def refused(model, inputs, return_outputs=False, **_):
        outputs = model(**inputs)
        logits = outputs.logits if model.training else outputs.logits[:, None].expand(-1, 2, -1)
        return (outputs.loss, {"loss": outputs.loss, "logits": logits}) if return_outputs else outputs.loss

    fails_midway.compute_loss = refused
    fails_midway.compute_metrics = None
    fails_midway.train()
    assert not attributions_in(fails_midway)
    left = [loader for loader in GradientState().dataloader_references if loader is not None]
    assert all(loader.dataset is not fails_midway.eval_dataset for loader in left)


def evaluations(trainer):
    """The records of losses, without what a clock says."""
    return [
        {name: value for name, value in record.items() if not name.endswith(("_runtime", "_per_second"))}
        for record in trainer.state.log_history
        if "loss" in record or "eval_loss" in record
    ]


def test_every_second_evaluation_is_attributed_if_so_asked(make_trainer, tmp_path):
    trainer = watched(make_trainer, options={"every": 2}, eval_steps=2)
    trainer.train()
    assert [step for step, _ in attributions_in(trainer)] == [4, 8, 12]
    assert len([record for record in trainer.state.log_history if "eval_loss" in record]) == 6
    with pytest.raises(AttributionError, match="every must be at least 1, got 0"):
        AttributionCallback(every=0)
    with pytest.raises(AttributionError, match="Unknown selection 'wrong'"):
        AttributionCallback(select="wrong")
    with pytest.raises(AttributionError, match="batch_size must be at least 1"):
        AttributionCallback(batch_size=0)


@pytest.mark.parametrize("select", ["misclassified", "top_loss"])
@pytest.mark.parametrize("kind", ["weights", "loss"])
def test_a_diverged_network_costs_a_warning_and_not_the_run(make_trainer, caplog, select, kind):
    transformers_logging.warning_once.cache_clear()
    trainer = watched(make_trainer, options={"select": select}, max_steps=4)
    if kind == "weights":
        torch.nn.init.constant_(trainer.model.resnet.fc.weight, math.nan)
    else:
        plain = trainer.compute_loss

        def infinite(*args, return_outputs=False, **kwargs):
            loss, outputs = plain(*args, return_outputs=True, **kwargs)
            return (loss + math.inf, outputs) if return_outputs else loss

        trainer.compute_loss = infinite
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 4 and not attributions_in(trainer)
    assert len(said_once(caplog, "AttributionCallback attributes nothing after this evaluation")) == 1


def test_trackers_see_the_shares_and_the_automatic_card_stays_whole(make_trainer, tmp_path):
    trainer = watched(make_trainer, CritMomTrainer, report_to="tensorboard", options={"every": 2})
    trainer.train()
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    reader = EventAccumulator(str(events)).Reload()
    for group in layer_groups(trainer.model).names:
        assert [event.step for event in reader.Scalars(f"eval/attribution/{group}")] == [8]
    trainer.create_model_card(model_name="tiny")
    card = (tmp_path / "run" / "README.md").read_text()
    header = next(line for line in card.splitlines() if line.startswith("| Training Loss"))
    assert "Accuracy" in header and "Attribution" not in header
    rows = card.split(header)[1].split("\n\n")[0].strip().splitlines()
    assert len(rows) == 1 + 3 and all(row.count("|") == header.count("|") for row in rows)


def test_several_evaluation_sets_are_told_apart(make_trainer, task):
    sets = {"first": task.validation, "second": task.test}
    trainer = watched(make_trainer, eval_dataset=sets)
    trainer.train()
    for name, split in sets.items():
        found = attributions_in(trainer, f"eval_{name}")
        assert [step for step, _ in found] == [4, 8, 12]
        alone = attribute_gradients(trainer.model, DataLoader(split, 25, collate_fn=task.collator))
        assert found[-1][1] == pytest.approx(alone.shares, rel=1e-4)


def test_an_evaluation_without_training_is_attributed_too(make_trainer, task, tmp_path):
    trainer = watched(make_trainer)
    trainer.evaluate()
    assert [step for step, _ in attributions_in(trainer)] == [0]
    trainer.evaluate(task.test, metric_key_prefix="test")
    assert len(attributions_in(trainer, "test")) == 1
    assert [entry["prefix"] for entry in read_history(tmp_path / "run")] == ["eval", "test"]


@pytest.mark.parametrize("fields", [{"gradient_accumulation_steps": 3}, {"bf16": True}, {"dataloader_num_workers": 1}])
def test_it_works_with_accumulated_gradients_bf16_and_workers(make_trainer, fields):
    trainer = watched(make_trainer, max_steps=4, **fields)
    trainer.add_callback(GradientNormCallback(trainer))
    trainer.train()
    ((_, shares),) = attributions_in(trainer)
    assert sum(shares.values()) == pytest.approx(1.0) and all(map(math.isfinite, norms_in(trainer)[3].values()))


def test_a_resumed_run_keeps_its_history_and_drops_what_was_lost(make_trainer, tmp_path):
    straight = watched(make_trainer, eval_steps=2, save_strategy="steps", save_steps=6)
    straight.train()
    whole = read_history(tmp_path / "run")
    assert [entry["step"] for entry in whole] == [2, 4, 6, 8, 10, 12]
    resumed = watched(make_trainer, eval_steps=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    again = read_history(tmp_path / "run")
    assert [entry["step"] for entry in again] == [2, 4, 6, 8, 10, 12]
    assert again == whole
    fresh = watched(make_trainer, max_steps=4)
    fresh.train()
    assert [entry["step"] for entry in read_history(tmp_path / "run")] == [4]


@pytest.mark.parametrize(
    "content",
    [
        b'{"history": [1]}', b"", b"{}", b"null", b"[]", b'{"history": 7}', b'{"history": {"step": 1}}', b"\xff\xfe{",
        b'{"history": [{"step": "one"', b"[" * 100_000, b'{"history": [[]]}', b'{"history": [{"epoch": 1}]}',
    ],
)  # fmt: skip
def test_a_corrupt_history_is_named(content, tmp_path):
    (tmp_path / HISTORY_FILE).write_bytes(content)
    with pytest.raises(AttributionError, match=f"{HISTORY_FILE} is corrupt"):
        read_history(tmp_path)


def test_a_history_that_cannot_be_written_costs_a_warning_and_not_the_run(make_trainer, tmp_path, caplog):
    transformers_logging.warning_once.cache_clear()
    trainer = watched(make_trainer)
    (tmp_path / "run").rmdir()
    (tmp_path / "run").write_text("the folder is gone, and a file has its name")
    trainer.train()
    assert [step for step, _ in attributions_in(trainer)] == [4, 8, 12]
    assert caplog.text.count("AttributionCallback cannot write into") == 1


def tiny_language_model():
    set_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=2, n_head=2, **ids))


def test_a_language_models_tokens_are_attributed(tmp_path):
    rows = torch.randint(0, 16, (12, 8), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row} for row in rows]
    args = TrainingArguments(
        str(tmp_path), use_cpu=True, max_steps=2, eval_strategy="steps", eval_steps=2, report_to="none",
        disable_tqdm=True, label_smoothing_factor=0.1,
    )  # fmt: skip
    trainer = CritMomTrainer(
        tiny_language_model(), args, train_dataset=data, eval_dataset=data, callbacks=[AttributionCallback()]
    )
    trainer.train()
    ((_, shares),) = attributions_in(trainer)
    assert tuple(shares) == ("embeddings", "block0", "block1", "norm")
    (entry,) = read_history(tmp_path)
    assert (entry["unit"], entry["total"]) == ("tokens", 12 * 7)
    evaluated = next(record["eval_loss"] for record in trainer.state.log_history if "eval_loss" in record)
    assert entry["loss"] > evaluated  # smoothed as the Trainer's own loss is, and of mispredicted tokens alone


# ---------------------------------------------------------------------------------------- where gradients cannot be had


def said_once(caplog, words):
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


def test_without_mistakes_it_says_so_once_and_training_goes_on(make_trainer, caplog):
    transformers_logging.warning_once.cache_clear()
    trainer = watched(make_trainer, options={"groups": ["no-such-layer"]})
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == STEPS and not attributions_in(trainer)
    assert len(said_once(caplog, "'no-such-layer'")) == 1


def test_a_callback_without_a_trainer_says_that_it_cannot_log(make_trainer, caplog):
    trainer = make_trainer(max_steps=1, eval_steps=1, callbacks=[AttributionCallback(), GradientNormCallback()])
    trainer.train()
    for name in ("AttributionCallback", "GradientNormCallback"):
        assert f"add_callback({name}(trainer))" in caplog.text
    assert not attributions_in(trainer) and not norms_in(trainer)


@pytest.mark.parametrize(
    ("trainer", "why"),
    [
        (types.SimpleNamespace(is_deepspeed_enabled=True), "DeepSpeed"),
        (
            types.SimpleNamespace(
                is_deepspeed_enabled=False,
                is_fsdp_enabled=True,
                accelerator=types.SimpleNamespace(is_fsdp2=False),
            ),
            "FSDP1",
        ),
    ],
)
def test_sharded_optimizers_are_told_that_nothing_is_logged(trainer, why, caplog, tmp_path):
    transformers_logging.warning_once.cache_clear()
    state = types.SimpleNamespace(log_history=[{"eval_runtime": 1.0}], global_step=0, logging_steps=1)
    args = TrainingArguments(str(tmp_path), use_cpu=True, logging_steps=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            AttributionCallback(trainer).on_evaluate(args, state, None, {"eval_runtime": 1.0}, eval_dataloader=[])
            GradientNormCallback(trainer).on_pre_optimizer_step(args, state, None)
    assert len(said_once(caplog, f"AttributionCallback attributes nothing: {why}")) == 1
    assert len(said_once(caplog, f"GradientNormCallback logs nothing: {why}")) == 1


# ------------------------------------------------------------------------------------------ gradients of training steps


class GradientKeeper(TrainerCallback):
    """Keeps the gradients of every step, as the optimizer is given them."""

    def __init__(self):
        self.kept = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.kept[state.global_step + 1] = {name: p.grad.clone() for name, p in model.named_parameters()}


def norms_of(model, gradients):
    groups = layer_groups(model).parameters
    return {
        group: math.sqrt(sum(float(gradients[name].double().square().sum()) for name in names))
        for group, names in groups.items()
    }


@pytest.mark.parametrize("accumulation", [1, 2])
def test_logging_steps_log_the_norms_of_the_training_gradient(make_trainer, accumulation):
    keeper = GradientKeeper()
    trainer = make_trainer(callbacks=[keeper], max_grad_norm=0.0, gradient_accumulation_steps=accumulation)
    trainer.add_callback(GradientNormCallback(trainer))
    trainer.train()
    assert list(norms_in(trainer)) == [3, 6, 9, 12]
    for step, norms in norms_in(trainer).items():
        assert norms == pytest.approx(norms_of(trainer.model, keeper.kept[step]), rel=1e-5)
        assert all(type(value) is float for value in norms.values())


@pytest.mark.parametrize("max_grad_norm", [0.01, 1.0, 1e6])
def test_they_are_those_from_before_clipping(make_trainer, max_grad_norm):
    free = watched(make_trainer, callback=GradientNormCallback, max_grad_norm=0.0, logging_steps=1, max_steps=1)
    free.train()
    clipped = watched(
        make_trainer, callback=GradientNormCallback, max_grad_norm=max_grad_norm, logging_steps=1, max_steps=3
    )
    clipped.train()
    assert norms_in(clipped)[1] == pytest.approx(norms_in(free)[1], rel=1e-4)
    totals = {record["step"]: record["grad_norm"] for record in clipped.state.log_history if "grad_norm" in record}
    for step, norms in norms_in(clipped).items():
        assert math.sqrt(sum(norm**2 for norm in norms.values())) == pytest.approx(totals[step], rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"logging_steps": 5}, [5, 10]),
        ({"logging_steps": 5, "logging_first_step": True}, [1, 5, 10]),
        ({"logging_steps": 0.25}, [3, 6, 9, 12]),
        ({"logging_strategy": "epoch"}, [8, 12]),
        ({"logging_strategy": "no"}, []),
    ],
)
def test_it_measures_where_the_trainer_logs(make_trainer, monkeypatch, fields, expected):
    measured = []
    trainer = watched(make_trainer, callback=GradientNormCallback, eval_strategy="no", **fields)
    original = sys.modules["hf_critmom.training.callbacks.gradient_norms"].stacked_norms
    monkeypatch.setattr(
        "hf_critmom.training.callbacks.gradient_norms.stacked_norms",
        lambda tensors: measured.append(1) or original(tensors),
    )
    trainer.train()
    assert list(norms_in(trainer)) == expected
    assert len(measured) == (STEPS if fields.get("logging_strategy") == "epoch" else len(expected))


def test_groups_of_ones_own_are_measured(make_trainer):
    trainer = watched(
        make_trainer, callback=GradientNormCallback, options={"groups": ["body=layer", "ends=."]}, eval_strategy="no"
    )
    trainer.train()
    assert all(set(norms) == {"body", "ends"} for norms in norms_in(trainer).values())


# ---------------------------------------------------------------------------------------------------- several processes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A saved ResNet of the digits, trained for an epoch."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    task = load_task(DataArguments())
    model = build_model(task, ModelArguments(width=2), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in DataLoader(task.train, 32, collate_fn=task.collator):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    task.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, checkpoint):
    """The results of two processes under torchrun that talk by gloo, and the folder that they wrote to."""
    folder = tmp_path_factory.mktemp("two_processes")
    finished = subprocess.run(
        [sys.executable, *TORCHRUN, programs.__file__, str(folder), str(checkpoint)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    return torch.load(folder / "results.pt", weights_only=True), folder


@pytest.fixture(scope="module")
def one_process():
    return programs.attributed(programs.Perceptron(), DataLoader(programs.points(programs.OBSERVED, 1), 10), None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["data parallel", "sharded"])
@pytest.mark.parametrize("select", [*programs.SELECTIONS, "mask"])
def test_two_processes_attribute_like_one(two_processes, one_process, kind, select):
    found, expected = two_processes[0][kind][select], one_process[select]
    for number in ("selected", "total", "misclassified", "unit", "frozen"):
        assert found[number] == expected[number]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-12)
    for name, group in expected["groups"].items():
        for number in ("norm", "share", "relative_norm", "parameters"):
            assert found["groups"][name][number] == pytest.approx(group[number], rel=1e-9)
    assert two_processes[0][kind]["predictions"] == one_process["predictions"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["watched", "accumulated"])
def test_two_processes_log_what_one_logs(two_processes, tmp_path, kind):
    found = two_processes[0][kind]
    alone = programs.watched_run(tmp_path, batch_size=8)
    for ours, theirs in zip(found["parameters"], alone["parameters"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-12)
    logged = [record for record in found["records"] if record]
    assert len(logged) == 3 + 4
    for ours, theirs in zip(found["records"], alone["records"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)
    written = read_history(two_processes[1] / kind)
    assert [entry["step"] for entry in written] == [4, 8, 12]
    assert [entry["total"] for entry in written] == [programs.OBSERVED] * 3


@pytest.mark.slow
def test_the_command_finds_the_same_in_two_processes(two_processes, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert programs.main(("attribute", str(checkpoint), "--output_dir", "attributed", "--use_cpu")) == 0
    both = [
        json.loads((Path(folder) / "attributed" / "attribution.json").read_text())["checkpoints"][0]["studies"][0]
        for folder in (two_processes[1], tmp_path)
    ]
    for name in ("attribution", "correct", "initial"):
        ours, theirs = (study[name] for study in both)
        assert (ours["selected"], ours["misclassified"]) == (theirs["selected"], theirs["misclassified"])
        for group, expected in theirs["groups"].items():
            assert ours["groups"][group]["share"] == pytest.approx(expected["share"], rel=1e-3, abs=1e-7)
    assert both[0]["classes"].keys() == both[1]["classes"].keys()
    assert both[0]["diagnosis"]["top"] == both[1]["diagnosis"]["top"]
