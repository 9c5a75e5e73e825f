"""`hf-critmom doctor`: what it says of trainings by real Trainers, and of folders that it cannot read."""

import json
import math
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from hf_critmom import CritMomAdamW, CritMomTrainer, DampingCallback
from hf_critmom.commands import main
from hf_critmom.damping import critical_momentum, critical_nu, damping_ratio
from hf_critmom.experiments.doctor.prospect import critical_learning_rate, critical_mean_step
from hf_critmom.optim.factory import OPTIMIZERS
from hf_critmom.optim.options import DEFAULT_QHM_CURVATURE

STEPS = 12


class Line(torch.nn.Module):
    """Least squares in one weight, which SGD trains and a large learning rate breaks."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([3.0]))

    def forward(self, x, labels=None):
        return {"loss": ((self.weight * x - labels) ** 2).mean(), "logits": self.weight * x}


class Points(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        return {"x": torch.tensor(1.0), "labels": torch.tensor(0.5)}


def train(folder, cls=Trainer, own=None, *, log_damping=False, evaluated=None, **arguments):
    """Trains with the optimizer that the arguments name, or with one of its own that a function builds."""
    options = {
        "max_steps": STEPS,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "lr_scheduler_type": "constant",
        **arguments,
    }
    model = Line()
    trainer = cls(
        model=model,
        args=TrainingArguments(str(folder), **options),
        train_dataset=Points(),
        eval_dataset=evaluated or Points(),
        optimizers=own(model.parameters()) if own is not None else (None, None),
    )
    if log_damping:
        trainer.add_callback(DampingCallback(trainer))
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def constant(tmp_path_factory):
    """A plain Trainer's run with SGD and momentum 0.9, clipped, whose log lies in a checkpoint only."""
    folder = tmp_path_factory.mktemp("constant")
    train(
        folder,
        optim="sgd",
        optim_args="momentum=0.9",
        learning_rate=0.1,
        weight_decay=0.01,
        max_grad_norm=2.0,
        save_strategy="steps",
        save_steps=6,
        eval_strategy="steps",
        eval_steps=4,
    )
    return folder


def examine(capsys, folder, *flags):
    """Findings by topic."""
    capsys.readouterr()  # what a Trainer has printed
    assert main(["doctor", str(folder), "--json", *flags]) == 0
    printed = json.loads(capsys.readouterr().out)
    return {one["topic"]: one for one in printed["findings"]}


def error_of(capsys, folder, *flags):
    assert main(["doctor", str(folder), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "Traceback" not in captured.err and captured.out == ""
    return captured.err


def write_state(folder, records, **state):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"global_step": records[-1]["step"], "max_steps": 100, "log_history": records, **state}
    (folder / "trainer_state.json").write_text(json.dumps(content))
    return folder


# ------------------------------------------------------------------------------------------- what a run is told to be


def test_a_plain_trainers_run_is_understood_from_its_newest_checkpoint(constant, capsys):
    found = examine(capsys, constant)
    run = found["run"]["values"]
    assert (run["optimizer"], run["batch_size"], run["steps"]) == ("sgd", 4, STEPS)
    assert run["log"] == "trainer_state.json of checkpoint-12"
    assert run["optimizer_source"] == "optimizer.pt of checkpoint-12"
    assert found["learning rate"]["values"]["peak"] == 0.1
    assert found["momentum"]["values"] == {"low": 0.9, "high": 0.9}


def test_what_critmom_would_do_follows_from_the_mean_steps(constant, capsys):
    prospect = examine(capsys, constant)["critmom here"]
    assert "6.3 times smaller" in prospect["sentence"]
    values = prospect["values"]
    assert values["ratio_at_peak"] == pytest.approx(0.1 / (1 - 0.9) / (0.1 / (1 - critical_momentum(0.1))))
    # Constant momentum at the matched learning rate takes critmom's step, critmom at the other takes this run's.
    assert values["matched_lr"] / (1 - 0.9) == pytest.approx(values["critical_mean_step"])
    assert critical_mean_step(values["same_step_lr"]) == pytest.approx(values["mean_step"])
    assert "clamped to 0" in prospect["sentence"]


def test_no_step_is_called_once_as_large(tmp_path, capsys):
    train(tmp_path, optim="sgd", optim_args="momentum=0.9", learning_rate=0.00265, save_strategy="steps", save_steps=6)
    sentence = examine(capsys, tmp_path)["critmom here"]["sentence"]  # 20 sqrt(lr) = 1.03 times critmom's
    assert ": the same; over the run the same." in sentence


@pytest.mark.parametrize("lr", [1e-6, 0.0025, 0.1, 0.25, 0.3, 2.0])
def test_the_learning_rate_of_a_mean_step_is_the_inverse(lr):
    assert critical_learning_rate(critical_mean_step(lr)) == pytest.approx(lr)


def test_clipping_is_counted_from_the_log(constant, capsys):
    clipping = examine(capsys, constant)["clipping"]
    state = json.loads((constant / "checkpoint-12" / "trainer_state.json").read_text())
    norms = [record["grad_norm"] for record in state["log_history"] if "loss" in record]
    assert clipping["values"]["clipped_share"] == pytest.approx(sum(norm > 2.0 for norm in norms) / len(norms))
    assert 0.0 < clipping["values"]["clipped_share"] < 1.0


def test_the_regime_at_curvature_1_is_told_apart_from_the_measured_one(constant, capsys):
    found = examine(capsys, constant)
    assert found["damping at k = 1"]["values"]["ratio_low"] == pytest.approx(0.1 / (2 * math.sqrt(0.1)))
    assert found["damping at k = 1"]["values"]["underdamped_share"] == 1.0
    assert found["damping, measured"]["state"] == found["can momentum matter"]["state"] == "cannot tell"


def test_measured_curvature_decides_regime_and_advice(tmp_path, constant, capsys):
    folder = tmp_path / "measured"
    shutil.copytree(constant, folder)
    file = folder / "checkpoint-12" / "trainer_state.json"
    state = json.loads(file.read_text())
    state["log_history"].append(
        {
            "curvature/top": 10.0,
            "curvature/top_damping_ratio": 0.05,
            "curvature/mean_step": 1.0,
            "noise_scale": 8.0,
            "noise_scale_low": 6.0,
            "noise_scale_high": 10.0,
            "noise_scale_rows": 2.0,
            "step": 12,
        }
    )
    file.write_text(json.dumps(state))
    found = examine(capsys, folder)
    assert "Underdamped: damping ratio 0.05" in found["damping, measured"]["sentence"]
    assert found["can momentum matter"]["values"]["role"] == "needed"
    assert "batch size 4" in found["can momentum matter"]["sentence"]


def test_a_measured_curvature_that_is_not_positive_is_the_reason_for_no_ratio(tmp_path, capsys):
    records = [{"loss": 1.0, "learning_rate": 0.1, "momentum": 0.9, "step": 1}]
    records.append({"curvature/top": -5.0, "curvature/mean_step": 1.0, "step": 2})
    found = examine(capsys, write_state(tmp_path, records))
    assert "curvature is not positive" in found["damping, measured"]["sentence"]


def test_the_batch_of_a_process_is_that_of_the_state(tmp_path, constant, capsys):
    folder = tmp_path / "run"
    shutil.copytree(constant, folder)
    assert examine(capsys, folder)["run"]["values"]["batch_size"] == 4
    file = folder / "checkpoint-12" / "trainer_state.json"  # as auto_find_batch_size or two devices have left it
    file.write_text(json.dumps({**json.loads(file.read_text()), "train_batch_size": 8}))
    assert examine(capsys, folder)["run"]["values"]["batch_size"] == 8


def test_dampening_is_not_given_the_damping_of_the_heavy_ball(tmp_path, capsys):
    optimizer = {"optim": "sgd", "optim_args": "momentum=0.9,dampening=0.9", "learning_rate": 0.1}
    train(tmp_path, **optimizer, save_strategy="steps", save_steps=STEPS)
    for file in (None, "optimizer.pt"):
        if file is not None:
            (tmp_path / "checkpoint-12" / file).unlink()
        found = examine(capsys, tmp_path)
        assert "SGD has dampening 0.9" in found["run"]["sentence"]
        assert found["damping at k = 1"]["state"] == found["critmom here"]["state"] == "cannot tell"


@pytest.mark.parametrize("cls", [Trainer, CritMomTrainer])
def test_nesterovs_momentum_has_the_damping_of_its_look_ahead_whoever_logged_it(cls, tmp_path, capsys):
    optimizer = {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=true", "learning_rate": 0.1}
    train(tmp_path, cls, **optimizer, save_strategy="steps", save_steps=STEPS)
    for file in (None, "optimizer.pt"):
        if file is not None:
            (tmp_path / "checkpoint-12" / file).unlink()
        found = examine(capsys, tmp_path)["damping at k = 1"]["values"]
        assert found["ratio_low"] == found["ratio_high"] == pytest.approx(damping_ratio(0.9, 0.1, nu=0.9))


def one_cycle(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.02, momentum=0.9)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=STEPS)


@pytest.mark.parametrize(
    ("name", "own"), [("critmom", None), ("critmom_qhm", None), ("critmom_matched", None), ("sgd", one_cycle)]
)
def test_what_a_callback_logs_in_records_of_its_own_counts_as_what_a_trainer_logs_with_the_loss(
    name, own, tmp_path, capsys
):
    options = {"optim": name, "learning_rate": 0.05, "save_strategy": "steps", "save_steps": STEPS}
    train(tmp_path / "apart", own=own, log_damping=True, **options)
    train(tmp_path / "merged", CritMomTrainer, own=own, **options)
    history = json.loads((tmp_path / "apart/checkpoint-12/trainer_state.json").read_text())["log_history"]
    assert not any("loss" in record and "momentum" in record for record in history)
    apart, merged = (examine(capsys, tmp_path / folder) for folder in ("apart", "merged"))
    assert apart == merged
    assert "(logged)" in apart["momentum"]["sentence"] and apart["damping at k = 1"]["state"] == "fine"


def test_quasi_hyperbolic_momentum_is_never_given_the_damping_of_the_heavy_ball(tmp_path, capsys):
    options = {"optim": "critmom_qhm", "learning_rate": 0.05, "save_strategy": "steps", "save_steps": STEPS}
    train(tmp_path / "logged", log_damping=True, **options)
    found = examine(capsys, tmp_path / "logged")["damping at k = 1"]["values"]
    nu = critical_nu(0.9, 0.05, curvature=DEFAULT_QHM_CURVATURE)
    assert found["ratio_low"] == found["ratio_high"] == pytest.approx(damping_ratio(0.9, 0.05, nu=nu))
    train(tmp_path / "silent", **options)
    found = examine(capsys, tmp_path / "silent")
    assert found["momentum"]["values"] == {"low": 0.9, "high": 0.9}
    assert "the weight nu of critmom_qhm" in found["damping at k = 1"]["sentence"]
    assert "DampingCallback" in found["damping at k = 1"]["sentence"]


def test_the_step_of_a_control_that_was_not_logged_is_the_only_thing_said_to_be_missing(tmp_path, capsys):
    train(tmp_path, optim="critmom_matched", learning_rate=0.05, save_strategy="steps", save_steps=STEPS)
    found = examine(capsys, tmp_path)
    for topic in ("damping at k = 1", "critmom here"):
        assert "critmom_matched replaces the schedule's learning rate" in found[topic]["sentence"]


def test_momentum_that_was_computed_is_not_called_logged(tmp_path, capsys):
    options = {"learning_rate": 0.05, "save_strategy": "steps", "save_steps": STEPS}
    train(tmp_path / "run", optim="critmom", **options)
    said = examine(capsys, tmp_path / "run")["momentum"]["sentence"]
    assert "computed from the learning rate, by the options in optimizer.pt of checkpoint-12" in said
    records = [{"loss": 1.0, "learning_rate": 0.05, "step": step} for step in (13, 14)]
    records.insert(1, {"momentum": 0.5, "step": 13})
    write_state(tmp_path / "run", records)
    assert "(logged at 1 of 2 logging steps, else computed" in examine(capsys, tmp_path / "run")["momentum"]["sentence"]


def test_the_momentum_of_other_optimizers_is_told_without_a_damping(tmp_path, capsys):
    options = {"optim": "rmsprop", "learning_rate": 0.01, "save_strategy": "steps", "save_steps": STEPS}
    train(tmp_path, log_damping=True, optim_args="momentum=0.5", **options)
    found = examine(capsys, tmp_path)
    assert found["momentum"]["sentence"] == "Momentum 0.5 at every logging step (logged)."
    assert found["run"]["sentence"].startswith("rmsprop (optimizer.pt of checkpoint-12)")
    assert "not computed for this optimizer" in found["damping at k = 1"]["sentence"]


def built(cls, **options):
    """A function that builds an optimizer of a script, with a schedule."""

    def build(parameters):
        optimizer = cls(parameters, lr=0.1, **options)
        return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)

    return build


@pytest.mark.parametrize(
    ("named", "own", "told"),
    [
        ("critmom", built(torch.optim.SGD, momentum=0.9), "SGD"),
        ("critmom_qhm", built(torch.optim.SGD, momentum=0.9), "SGD"),
        ("critmom_adamw", built(torch.optim.Adam), "Adam"),
        ("critmom", built(torch.optim.AdamW), "AdamW"),
        ("critmom", built(torch.optim.NAdam), "an optimizer of Adam's kind"),
        ("critmom_matched", built(torch.optim.RMSprop), "unknown optimizer"),
        ("sgd", built(CritMomAdamW), "critmom_adamw"),
    ],
)
def test_an_optimizer_that_did_not_train_is_not_named(named, own, told, tmp_path, capsys):
    options = {"optim": named, "learning_rate": 0.1, "save_strategy": "steps", "save_steps": STEPS}
    train(tmp_path, own=own, **options)
    run = examine(capsys, tmp_path)["run"]
    assert run["sentence"].startswith(f"{told}{' (optimizer.pt' if told != 'unknown optimizer' else ''}")
    assert run["state"] == "warning"
    assert f"--optim {named} was not used: the script brings an optimizer of its own." in run["sentence"]


@pytest.mark.parametrize("name", [*OPTIMIZERS, "sgd", "adamw_torch", "adamw_torch_fused", "rmsprop"])
def test_the_optimizer_that_was_asked_for_keeps_its_name(name, tmp_path, capsys):
    train(tmp_path, optim=name, learning_rate=0.1, max_steps=2, save_strategy="steps", save_steps=2)
    run = examine(capsys, tmp_path)["run"]
    assert run["sentence"].startswith(f"{name} (optimizer.pt of checkpoint-2)") and run["state"] == "fine"


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.Adam])
def test_an_optimizer_of_the_script_is_no_warning_where_nobody_chose_another(cls, tmp_path, capsys):
    train(tmp_path, own=built(cls), save_strategy="steps", save_steps=STEPS)
    run = examine(capsys, tmp_path)["run"]
    assert run["sentence"].startswith(f"{cls.__name__} (optimizer.pt of checkpoint-12)") and run["state"] == "fine"


def test_critmoms_own_run_is_recognised_by_its_param_groups(tmp_path, capsys):
    train(tmp_path, CritMomTrainer, learning_rate=0.1, save_strategy="steps", save_steps=12, logging_steps=3)
    found = examine(capsys, tmp_path)
    assert found["momentum"]["values"]["low"] == pytest.approx(critical_momentum(0.1))
    assert found["damping at k = 1"]["values"]["critical_share"] == 1.0
    assert "the arm matched" in found["critmom here"]["sentence"]
    assert found["critmom here"]["values"]["matched_lr"] == pytest.approx(0.1 * 0.1 / (1 - critical_momentum(0.1)))


def test_adam_is_not_given_the_damping_of_sgd(tmp_path, capsys):
    train(tmp_path, learning_rate=1e-3, max_steps=2).save_state()
    (tmp_path / "training_args.bin").unlink(missing_ok=True)
    found = examine(capsys, tmp_path)
    assert found["run"]["state"] == found["momentum"]["state"] == found["critmom here"]["state"] == "cannot tell"
    torch.save(TrainingArguments(str(tmp_path), use_cpu=True), tmp_path / "training_args.bin")
    found = examine(capsys, tmp_path)
    assert "unless the script built an optimizer of its own" in found["run"]["sentence"]
    assert "another curvature" in found["damping at k = 1"]["sentence"]
    assert found["critmom here"]["values"]["matched_lr"] == pytest.approx(1e-3)


def test_the_momentum_of_a_damped_adam_is_that_of_its_own_rule(tmp_path, capsys):
    options = {"optim": "critmom_adamw", "optim_args": "rule=exact", "learning_rate": 0.01}
    train(tmp_path, CritMomTrainer, **options, save_strategy="steps", save_steps=STEPS)
    found = examine(capsys, tmp_path)["critmom here"]
    assert found["values"]["critical_momentum"] == pytest.approx(critical_momentum(0.01, rule="exact"))
    assert f"critmom_adamw is {critical_momentum(0.01, rule='exact'):.3f} at the peak" in found["sentence"]


COMMITTED = Path(__file__).parents[3] / "model_cards" / "cifar10-resnet18-w16-15epochs"


def test_a_run_of_a_comparison_takes_settings_and_targets_from_the_plan(capsys):
    plan = json.loads((COMMITTED / "comparison.json").read_text())
    found = examine(capsys, COMMITTED / "runs" / "constant" / "seed-42")
    assert found["run"]["values"]["batch_size"] == plan["training"]["per_device_train_batch_size"]
    assert list(found["evaluation"]["values"]["targets"]) == [f"{target:g}" for target in plan["targets"]]
    assert found["evaluation"]["values"]["metric"] == "accuracy"
    assert found["critmom here"]["values"]["ratio_at_peak"] == pytest.approx(6.3, abs=0.05)
    assert found["clipping"]["sentence"].startswith("Gradients are not clipped")
    assert "critmom (comparison.json)" in examine(capsys, COMMITTED / "runs" / "critmom" / "seed-42")["run"]["sentence"]


def test_the_folder_of_a_comparison_is_asked_for_a_run(capsys):
    sentence = error_of(capsys, COMMITTED)
    assert "several runs" in sentence and str(COMMITTED / "runs" / "adamw" / "seed-42") in sentence


# ----------------------------------------------------------------------------------------------- how the training went


def test_a_run_that_diverges_is_said_to(tmp_path, capsys):
    trainer = train(
        tmp_path, optim="sgd", learning_rate=1e3, max_grad_norm=0.0, max_steps=30, logging_nan_inf_filter=False
    )
    trainer.save_state()
    divergence = examine(capsys, tmp_path)["divergence"]
    assert divergence["state"] == "warning"
    assert f"not finite at step {divergence['values']['diverged_step']}" in divergence["sentence"]


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([2.0, 1.0, 0.5, 0.4], "None"),
        ([2.0, 0.5, 1.5, 1.8], "risen again"),
        ([2.0, 2.1, 1.99, 2.0], "hardly fallen"),
        ([-1.0, -1.5, -2.0, -2.0], "None"),  # a loss may be negative, as the logarithm of a density is
        ([-1.0, -2.0, -1.5, -0.5], "risen again"),
        ([-2.0, -2.01, -2.0, -2.02], "hardly fallen"),
        ([2.0] * 30 + [1.0] * 70 + [1.9], "None"),  # the last tenth is not the single step that ten tenths leave over
    ],
)
def test_a_loss_that_rises_or_does_not_fall_is_a_warning(tmp_path, capsys, losses, said):
    records = [{"loss": loss, "learning_rate": 0.1, "step": i + 1} for i, loss in enumerate(losses)]
    assert said in examine(capsys, write_state(tmp_path / "run", records))["divergence"]["sentence"]


def test_a_loss_is_not_finite_also_where_strict_json_says_null_or_text_says_nan(tmp_path, capsys):
    for broken in (None, "NaN"):
        records = [{"loss": 2.0, "learning_rate": "0.1", "step": 1}, {"loss": broken, "step": 2}]
        found = examine(capsys, write_state(tmp_path / "run", records))
        assert "training loss is not finite at step 2" in found["divergence"]["sentence"]
        assert found["learning rate"]["values"]["peak"] == 0.1


def test_gradients_that_are_never_finite_have_no_share_that_was_clipped(tmp_path, constant, capsys):
    folder = tmp_path / "run"
    shutil.copytree(constant, folder)
    records = [{"loss": 1.0, "grad_norm": math.nan, "learning_rate": 0.1, "step": 1 + step} for step in range(2)]
    found = examine(capsys, write_state(folder, records, global_step=STEPS + 1))["clipping"]
    assert found["state"] == "cannot tell" and "no grad_norm in the log is finite" in found["sentence"]


def test_the_cadence_is_judged_by_the_evaluations_around_each_target(tmp_path, capsys):
    values = {10: 0.5, 20: 0.8, 30: 0.9, 100: 0.95, 109: 0.96}
    records = [{"eval_accuracy": value, "eval_loss": 1 - value, "step": step} for step, value in values.items()]
    folder = write_state(tmp_path / "run", records)
    found = examine(capsys, folder, "--targets", "0.4", "0.9", "0.96", "0.99")["evaluation"]
    within = {name: target["within"] for name, target in found["values"]["targets"].items()}
    assert within == {"0.4": None, "0.9": 1.5, "0.96": pytest.approx(1.09), "0.99": 1.0}
    assert found["state"] == "warning" and "evaluate after every step." in found["sentence"]
    assert examine(capsys, folder, "--targets", "0.96")["evaluation"]["state"] == "fine"
    falling = examine(capsys, folder, "--metric", "eval_loss", "--targets", "0.1")["evaluation"]
    assert falling["values"]["targets"]["0.1"]["step"] == 30


def test_an_error_rate_is_best_where_it_is_lowest(tmp_path, capsys):
    records = [{"eval_wer": value, "step": step} for step, value in ((10, 0.6), (20, 0.3), (30, 0.4))]
    folder = write_state(tmp_path / "run", records)
    found = examine(capsys, folder, "--metric", "wer", "--targets", "0.3", "0.2")["evaluation"]
    assert "lowest wer 0.3 at step 20" in found["sentence"] and "wer 0.2: not reached" in found["sentence"]
    assert found["values"]["targets"]["0.3"]["step"] == 20


def test_several_evaluation_sets_are_evaluations_whose_metric_has_to_be_named(tmp_path, capsys):
    parts = {"easy": Points(), "hard": Points()}
    arguments = {"optim": "sgd", "learning_rate": 0.01, "eval_strategy": "steps", "eval_steps": 4}
    train(tmp_path, evaluated=parts, **arguments).save_state()
    found = examine(capsys, tmp_path)["evaluation"]
    assert "Choose one with --metric: easy_loss, hard_loss." in found["sentence"]
    assert "3 evaluations" in examine(capsys, tmp_path, "--metric", "hard_loss")["evaluation"]["sentence"]


def test_an_evaluation_before_the_first_step_counts(tmp_path, capsys):
    values = {0: 0.9, 10: 0.7, 20: 0.85, 30: 0.95}
    folder = write_state(tmp_path / "run", [{"eval_accuracy": value, "step": at} for at, value in values.items()])
    found = examine(capsys, folder, "--targets", "0.8", "0.92")["evaluation"]
    assert (
        "accuracy 0.8: reached before the first step. accuracy 0.92: first reached after step 20" in found["sentence"]
    )
    assert found["values"]["targets"]["0.8"] == {"step": 0, "after": 0, "within": 1.0}
    only = write_state(tmp_path / "only", [{"eval_accuracy": 0.9, "step": 0}])
    assert "1 evaluation" in examine(capsys, only)["evaluation"]["sentence"]


def test_a_rule_without_a_clamp_is_not_compared_with_infinity(tmp_path, capsys):
    options = {"optim": "critmom", "optim_args": "rule=exponential", "learning_rate": 0.5}
    train(tmp_path, **options, save_strategy="steps", save_steps=STEPS)
    clamp = examine(capsys, tmp_path)["clamp of critmom"]
    assert clamp["sentence"] == "Never: the exponential rule has a positive momentum at every learning rate."
    assert clamp["values"] == {"limit": None, "clamped_share": 0.0}


def test_the_clamp_is_told_where_the_learning_rate_exceeds_a_quarter(tmp_path, capsys):
    records = [{"loss": 1.0 / step, "learning_rate": lr, "step": step} for step, lr in ((1, 0.1), (2, 0.3))]
    clamp = examine(capsys, write_state(tmp_path / "run", records))["clamp of critmom"]
    assert clamp["values"] == {"limit": 0.25, "clamped_share": 0.5}


# ---------------------------------------------------------------------------------------------------------- safety


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_nothing_in_the_folder_is_executed(tmp_path, constant, capsys):
    folder, mark = tmp_path / "run", tmp_path / "executed"
    shutil.copytree(constant, folder)
    for file in ("training_args.bin", "checkpoint-12/training_args.bin", "checkpoint-12/optimizer.pt"):
        torch.save(Bomb(mark), folder / file)
    found = examine(capsys, folder)
    assert not mark.exists()
    assert found["run"]["state"] == "warning" and "optimizer.pt cannot be read" in found["run"]["sentence"]
    (folder / "training_args.bin").write_bytes(pickle.dumps(Bomb(mark)))
    assert "training_args.bin cannot be read" in examine(capsys, folder)["run"]["sentence"]
    assert not mark.exists()


def test_a_folder_without_a_log_says_what_was_expected(tmp_path, capsys):
    assert "holds no log of a training: expected trainer_state.json" in error_of(capsys, tmp_path)
    assert "does not exist" in error_of(capsys, tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "is a file" in error_of(capsys, tmp_path / "file")


def test_a_folder_of_several_runs_names_them(tmp_path, constant, capsys):
    shutil.copytree(constant, tmp_path / "runs" / "constant" / "seed-42")
    assert f"name a run, one of {tmp_path / 'runs' / 'constant' / 'seed-42'}." in error_of(capsys, tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"global_step": 3}', '{"global_step": "x", "log_history": []}', "[" * 100_000]
)
def test_a_damaged_state_is_one_sentence(tmp_path, capsys, content):
    (tmp_path / "trainer_state.json").write_text(content)
    assert "trainer_state.json is damaged" in error_of(capsys, tmp_path)


def test_a_damaged_record_is_named(tmp_path, capsys):
    file = tmp_path / "trainer_state.json"
    file.write_text(json.dumps({"global_step": 3, "log_history": [{"loss": 1.0, "step": 1}, {"loss": 1.0}]}))
    assert "log_history[1]" in error_of(capsys, tmp_path)


def test_the_logs_of_several_runs_are_not_one(tmp_path, capsys):
    records = [{"loss": 1.0, "learning_rate": 0.1, "step": step} for step in (10, 20, 10, 20)]
    said = error_of(capsys, write_state(tmp_path / "run", records))
    assert "holds the logs of several runs (log_history[2] is of step 10, and the record before it of step 20)" in said


@pytest.mark.parametrize("loss", [10**400, 1e308])
def test_a_number_that_no_sum_holds_is_not_finite(tmp_path, capsys, loss):
    folder = write_state(tmp_path / "run", [{"loss": loss, "learning_rate": loss, "step": 1}] * 20)
    assert "not finite at step 1" in examine(capsys, folder)["divergence"]["sentence"]
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 10**400, "log_history": []}))
    assert "trainer_state.json is damaged" in error_of(capsys, folder)


@pytest.mark.parametrize(("name", "value"), [("learning_rate", -0.1), ("momentum", -0.5), ("momentum", 2), ("nu", 5)])
def test_a_value_that_no_optimizer_takes_is_named(tmp_path, capsys, constant, name, value):
    shutil.copytree(constant, tmp_path / "run")
    record = {"loss": 1.0, "learning_rate": 0.1, "momentum": 0.9, "step": 1, name: value}
    folder = write_state(tmp_path / "run", [record], global_step=STEPS + 1)
    assert f"log_history[0] holds {value:g} as its {name}, which no optimizer takes" in error_of(capsys, folder)


def test_an_unknown_metric_names_the_known_ones(constant, capsys):
    assert "choose one of loss" in error_of(capsys, constant, "--metric", "accuracy", "--targets", "0.9")


def test_foreign_text_is_no_markup_in_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_state(tmp_path / "[red]run[/red]", [{"loss": 1.0, "learning_rate": 0.1, "step": 1}])
    assert main(["doctor", str(folder.relative_to(tmp_path))]) == 0
    assert "[red]run[/red]" in capsys.readouterr().out.replace("\n", "")


def test_evaluations_whose_metric_is_no_number_are_not_told(tmp_path, capsys):
    records = [{"loss": 1.0, "learning_rate": 0.1, "step": 1}, {"eval_loss": 1.0, "eval_accuracy": math.nan, "step": 2}]
    found = examine(capsys, write_state(tmp_path / "run", records))["evaluation"]
    assert "no evaluation logged a number as its accuracy" in found["sentence"]


@pytest.mark.parametrize("name", ["trainer_state.json", "checkpoint-3/optimizer.pt", "training_args.bin"])
def test_a_pipe_or_a_device_is_not_read_for_ever(name, tmp_path, capsys):
    (tmp_path / "checkpoint-3").mkdir()
    os.mkfifo(tmp_path / name)
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "trainer_state.json").symlink_to("/dev/zero")
    for folder, odd in ((tmp_path, tmp_path / name), (tmp_path / "device", tmp_path / "device/trainer_state.json")):
        assert main(["doctor", str(folder)]) == 2
        assert f"{odd} is not a regular file, and reading it may never end" in capsys.readouterr().err
