"""Claims about single runs: how often they evaluate, what they record of their steps, and what follows a failure."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from helpers.distributed_programs import Perceptron
from helpers.watched_comparisons import read_result
from PIL import Image
from torch import nn

from hf_critmom.commands import main
from hf_critmom.commands.compare import parse_comparison
from hf_critmom.damping import integrated_steps
from hf_critmom.experiments.comparison.arms.muon import MuonWithAdamW
from hf_critmom.experiments.comparison.arms.selection import get_arms
from hf_critmom.experiments.comparison.planning import with_measured_cadence
from hf_critmom.experiments.comparison.running import execution
from hf_critmom.experiments.comparison.statistics.steps import StepStatistics
from hf_critmom.optim import CritMomSGD
from hf_critmom.training.batch_statistics import averages_weights, recalibrate

TINY = (
    *("compare", "--width", "2", "--max_eval_samples", "64", "--use_cpu", "--workers", "1", "--num_seeds", "1"),
    *("--targets", "0.05"),
)


def result_of(folder: Path, arm: str = "constant", *budget: str) -> dict[str, Any]:
    return json.loads(folder.joinpath("runs", arm, *budget, "seed-42", "result.json").read_text())


# ----------------------------------------------------------------------------------------------- how often is evaluated


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        # 7 steps an epoch: evaluations after ceil(7 k / n), and the last at the end of each epoch
        (("--evaluations_per_epoch", "3", "--num_train_epochs", "2"), [3, 5, 7, 10, 12, 14]),
        (("--evaluations_per_epoch", "100", "--num_train_epochs", "1"), [1, 2, 3, 4, 5, 6, 7]),
        (("--evaluations_per_epoch", "2", "--num_train_epochs", "1.5"), [4, 7, 11]),
        (
            ("--evaluations_per_epoch", "2", "--num_train_epochs", "2", "--gradient_accumulation_steps", "2"),
            [2, 4, 6, 8],
        ),
        (("--evaluations_per_epoch", "2", "--num_train_epochs", "2", "--eval_delay", "1"), [7, 11, 14]),
        (("--eval_steps", "3", "--num_train_epochs", "1"), [3, 6, 7]),
        (("--eval_strategy", "epoch", "--num_train_epochs", "2"), [7, 14]),
    ],
)
def test_evaluations_divide_each_epoch(words: tuple[str, ...], steps: list[int], tmp_path: Path) -> None:
    given = ("--arms", "constant", "--max_train_samples", "100", "--per_device_train_batch_size", "16")
    assert main((*TINY, *given, *words, "--output_dir", str(tmp_path))) == 0
    evaluations = result_of(tmp_path)["evaluations"]
    assert [evaluation["step"] for evaluation in evaluations] == steps
    seconds = [evaluation["seconds"] for evaluation in evaluations]
    assert seconds == sorted(seconds)


def test_more_evaluations_do_not_change_the_training(tmp_path: Path) -> None:
    given = ("--arms", "critmom", "adamw", "--max_train_samples", "100", "--num_train_epochs", "2")
    given += ("--threads_per_worker", "1")  # else the fastest number is measured, and may differ with the load
    for number in ("1", "3"):
        words = (*given, "--evaluations_per_epoch", number, "--output_dir", str(tmp_path / number))
        assert main((*TINY, "--per_device_train_batch_size", "16", *words)) == 0
    for arm in ("critmom", "adamw"):
        few, many = (result_of(tmp_path / number, arm) for number in ("1", "3"))
        assert [record["loss"] for record in few["training_log"]] == [record["loss"] for record in many["training_log"]]
        assert few["test"] == many["test"]


@pytest.mark.parametrize(
    ("step", "evaluation", "steps_per_epoch", "expected"),
    [
        (1.0, 3.75, 100.0, 4),  # 15 % exactly
        (1.0, 3.8, 100.0, 3),
        (1.0, 7.0, 100.0, 2),
        (1.0, 20.0, 100.0, 1),
        (1.0, 0.0, 3.0, 3),  # no more than there are steps
        (1.0, 0.0, 0.5, 1),
    ],
)
def test_without_a_flag_evaluations_take_at_most_a_seventh_of_the_time(
    step: float, evaluation: float, steps_per_epoch: float, expected: int
) -> None:
    request = parse_comparison(["--task", "some/images", "--use_cpu"])
    assert request.training.cadence_is_unset
    assert with_measured_cadence(request, step, evaluation, steps_per_epoch).training.evaluations_per_epoch == expected
    best = copy.copy(request.training)
    best.load_best_model_at_end = True
    request = parse_comparison(["--task", "some/images", "--use_cpu", "--save_strategy", "epoch"])
    request.training.load_best_model_at_end = True
    assert with_measured_cadence(request, 1.0, 0.0, 100.0).training.evaluations_per_epoch == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--evaluations_per_epoch", "0"), "--evaluations_per_epoch must be between 1 and 1,000"),
        (("--evaluations_per_epoch", "99999999"), "--evaluations_per_epoch must be between 1 and 1,000"),
        (("--evaluations_per_epoch", "2", "--eval_strategy", "steps"), "contradict each other"),
        (("--num_seeds", "99999999999999"), "--num_seeds must be at most 1,000"),
        (("--seed", "4294967295", "--num_seeds", "2"), "the seeds 4294967295 to 4294967296"),
        (("--num_train_epochs", "1", "1.0000001"), "equal in six digits"),
        (("--learning_rate_grid", "1", "1.0000001"), "equal in six digits"),
        (("--num_train_epochs", "1e300"), "--num_train_epochs"),
        (("--max_steps", "99999999999999999"), "--max_steps"),
        (("--metric_for_best_model", "nope", "--load_best_model_at_end", "true", "--save_strategy", "epoch"), "nope"),
        (("--workers", "99999"), "--workers must be at least 1 and at most 1,000"),
        (("--arms", "critmon"), "did you mean critmom"),
        (("--arms", "timm:lyon"), "did you mean lion"),
        (("--arms", "constant[momentum=-7]"), "Invalid momentum value"),
        (("--arms", "constant", "constant"), "named twice"),
        (("--arms", "timm:lion", "timm:lion[lr=1e-3]"), "with [name=...] for another name"),
        (("--arms", "timm:lion[lr=-1]"), "learning_rate is -1"),
        (("--arms", "timm:lion[lr=inf]"), "has the lr 'inf'"),
        (("--arms", "timm:lion[lr=1e999]"), "learning_rate is inf"),
        (("--arms", "timm:lion[weight_decay=-1]"), "weight_decay is -1"),
        (("--arms", "timm:lion[schedule=cubic]"), "schedule is 'cubic'"),
        (("--arms", "timm:lion[name=paper]"), "cannot name an arm"),
        (("--arms", "timm:lion[name=x_tuned]"), "cannot name an arm"),
        (("--arms", "timm:lion[name=../x]"), "cannot be called"),
    ],
)
def test_absurd_requests_are_refused_and_leave_nothing(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main((*TINY, "--max_train_samples", "64", *words, "--output_dir", str(tmp_path / "out"))) == 2
    sentence = capsys.readouterr().err
    assert said in sentence and sentence.count("\n") == 1 and not (tmp_path / "out").exists(), sentence


# ---------------------------------------------------------------------------------------------------- runs that fail


def test_a_run_that_fails_is_a_sentence_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = execution.build_model
    built: list[int] = []

    def fails_once(*words: Any, **options: Any) -> Any:
        built.append(1)
        if len(built) == 5:  # two for each arm's trial step
            raise RuntimeError("the model has a bad day")
        return build(*words, **options)

    monkeypatch.setattr(execution, "build_model", fails_once)
    command = (*TINY, "--max_train_samples", "64", "--num_train_epochs", "1", "--output_dir", str(tmp_path))
    assert main((*command, "--arms", "constant", "critmom")) == 2
    said = capsys.readouterr().err
    sentence = said.strip().splitlines()[-1]
    assert "The run constant, seed 42 failed (the model has a bad day)" in sentence and "Traceback" not in said
    assert "bad day" in (tmp_path / "runs" / "constant" / "seed-42" / "error.txt").read_text()
    assert result_of(tmp_path, "critmom")["status"] == "finished"
    assert main((*command, "--arms", "constant", "critmom")) == 0
    assert result_of(tmp_path, "constant")["status"] == "finished"


# ------------------------------------------------------------------------------------------------- steps and decay


def steps_of(optimizer: torch.optim.Optimizer, rates: list[float]) -> StepStatistics:
    statistics = StepStatistics()
    for lr in rates:
        for group in optimizer.param_groups:
            group["lr"] = lr
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        statistics = StepStatistics(**statistics.as_json())  # as a checkpoint keeps it
        statistics.add(optimizer)
    return statistics


RATES = [0.1 * 0.5 * (1.0 + math.cos(math.pi * step / 40)) for step in range(40)]


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_integrated_step_is_what_a_constant_gradient_moves_by(nesterov: bool) -> None:
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, nesterov=nesterov)
    means = steps_of(optimizer, RATES).means()
    assert means["integrated_step"] == pytest.approx(-parameter.item() / len(RATES))
    expected = integrated_steps([(lr, 0.9) for lr in RATES], nesterov=nesterov)
    assert means["integrated_step"] == pytest.approx(sum(expected) / len(expected))


@pytest.mark.parametrize("name", ["critmom", "matched", "compensated", "hybrid"])
def test_the_controls_take_the_integrated_step_that_they_are_named_for(name: str) -> None:
    def mean_step(arm: str) -> float:
        parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        cls, kwargs = get_arms([arm])[arm].optimizer_cls_and_kwargs(0.1)
        statistics = steps_of(cls([parameter], **kwargs), RATES)
        assert statistics.means()["integrated_step"] == pytest.approx(-parameter.item() / len(RATES), rel=1e-6)
        return float(statistics.means()["integrated_step"] or 0.0)

    found = mean_step(name)
    if name == "matched":
        assert found == pytest.approx(mean_step("critmom"), rel=1e-9)
    if name == "compensated":
        assert found == pytest.approx(mean_step("constant"), rel=1e-9)


def test_weight_decay_shrinks_by_the_step_in_sgd_and_by_the_learning_rate_in_adamw() -> None:
    parameter = nn.Parameter(torch.ones(1))
    found = steps_of(torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=5e-4), RATES).means()
    assert found["shrinkage"] == pytest.approx(5e-4 * float(found["integrated_step"] or 0.0))
    found = steps_of(torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.05), RATES).means()
    assert found["shrinkage"] == pytest.approx(0.05 * sum(RATES) / len(RATES))
    assert steps_of(torch.optim.Adagrad([parameter], lr=0.1, weight_decay=0.1), RATES).means() == {
        "integrated_step": None,
        "shrinkage": None,
    }


def test_a_group_that_is_decayed_stands_for_the_run() -> None:
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups = [{"params": [first], "weight_decay": 0.0}, {"params": [second], "weight_decay": 1e-3}]
    optimizer = CritMomSGD(groups, lr=0.04)
    statistics = StepStatistics()
    statistics.add(optimizer)
    assert statistics.means()["shrinkage"] == pytest.approx(0.04 * 1e-3)


def test_a_result_holds_steps_decay_clipping_and_how_busy_the_machine_was(tmp_path: Path) -> None:
    given = ("--arms", "constant", "--max_train_samples", "100", "--per_device_train_batch_size", "16")
    assert main((*TINY, *given, "--num_train_epochs", "1", "--max_grad_norm", "1", "--output_dir", str(tmp_path))) == 0
    result = result_of(tmp_path)
    assert result["integrated_step"] > 0.0 and result["shrinkage"] == pytest.approx(5e-4 * result["integrated_step"])
    assert all(record["grad_norm"] > 0.0 for record in result["training_log"])
    assert result["threads"] == 1 and result["load"]["workers"] == 1 and result["load"]["cores"] >= 1


# ----------------------------------------------------------------------------------------------------------------- Muon


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.Linear(6, 3))


def trained(optimizer: torch.optim.Optimizer, model: nn.Module, steps: int) -> None:
    tokens = torch.arange(5)
    for step in range(steps):
        optimizer.zero_grad()
        (model(tokens).square().sum() * (1.0 + 0.1 * step)).backward()
        optimizer.step()


def test_muon_takes_the_matrices_and_adamw_the_rest() -> None:
    """The twins are torch's own two, each on its parameters."""
    model, twin = network(), network()
    matrices = [twin[1].weight, twin[2].weight]
    others = [twin[1].bias, twin[2].bias, twin[0].weight]
    options = {"lr": 0.01, "weight_decay": 0.1}
    twins = [
        torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **options),
        torch.optim.AdamW(others, **options),
    ]
    groups = [
        {"params": [model[1].weight, model[1].bias, model[2].weight, model[2].bias]},
        {"params": [model[0].weight], "matrix": False},
    ]
    optimizer = MuonWithAdamW(groups, **options)
    for _ in range(3):
        for one in (optimizer, *twins):
            one.zero_grad()
        model(torch.arange(5)).square().sum().backward()
        twin(torch.arange(5)).square().sum().backward()
        for one in (optimizer, *twins):
            one.step()
    for found, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_muon_with_its_companion_continues_from_its_state() -> None:
    whole, cut, resumed = network(), network(), network()
    first, second = MuonWithAdamW(whole.parameters(), lr=0.01), MuonWithAdamW(cut.parameters(), lr=0.01)
    trained(first, whole, 3)
    trained(first, whole, 3)
    trained(second, cut, 3)
    resumed.load_state_dict(cut.state_dict())
    third = MuonWithAdamW(resumed.parameters(), lr=0.5)
    third.load_state_dict(copy.deepcopy(second.state_dict()))
    trained(third, resumed, 3)
    for found, expected in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)


def test_schedules_reach_both_parts() -> None:
    model = network()
    optimizer = MuonWithAdamW(model.parameters(), lr=0.01)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        group["weight_decay"] = 0.0
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trained(optimizer, model, 2)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_third_party_optimizers_are_compared_without_a_file(tmp_path: Path) -> None:
    arms = ("constant", "timm:lion", "torch.optim.Muon[lr=1e-3]", "optim:adafactor[lr=1e-3]", "critmom[rule=exact]")
    given = ("--max_train_samples", "64", "--num_train_epochs", "1", "--output_dir", str(tmp_path))
    assert main((*TINY, *given, "--arms", *arms)) == 0
    names = ["constant", "timm-lion", "torch.optim.Muon", "optim-adafactor", "critmom-rule-exact"]
    plan = json.loads((tmp_path / "comparison.json").read_text())
    assert list(plan["arms"]) == names and plan["baseline"] == "constant"
    assert (
        plan["arms"]["timm-lion"]["learning_rate"] == 1e-4 and plan["arms"]["torch.optim.Muon"]["weight_decay"] == 0.1
    )
    assert all(result_of(tmp_path, name)["status"] == "finished" for name in names)
    assert main((*TINY, *given, "--arms", *arms, "schedulefree.SGDScheduleFree[lr=0.1]")) == 0


# ------------------------------------------------------------------------------------------- weights that are averaged


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.drop(self.norm(x))


class Rows:
    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"x": self.values[indices]}


def test_statistics_of_batch_normalisation_become_those_of_the_data() -> None:
    torch.manual_seed(1)
    values = torch.randn(64, 3) * torch.tensor([1.0, 2.0, 3.0]) + 5.0
    model = Normalised()
    model.norm.running_mean.fill_(-100.0)
    numbers = torch.random.get_rng_state()
    recalibrate(model, Rows(values), 16, lambda batch: batch)
    assert torch.equal(torch.random.get_rng_state(), numbers)
    torch.testing.assert_close(model.norm.running_mean, values.mean(0))
    assert model.norm.momentum == 0.1 and model.training and model.norm.training
    before = model.norm.running_var.clone()
    recalibrate(model.eval(), Rows(values), 16, lambda batch: batch)
    assert torch.equal(model.norm.running_var, before) and not model.norm.training


def test_a_model_without_batch_normalisation_is_left_alone() -> None:
    model = Perceptron()
    recalibrate(model, None, 16, lambda batch: batch)


def test_schedule_free_is_known_by_its_modes_wherever_it_comes_from() -> None:
    parameter = [nn.Parameter(torch.zeros(1))]
    for source in ("schedule_free", "optim:schedule_free_adamw", "schedulefree.SGDScheduleFree"):
        (arm,) = get_arms([source]).values()
        cls, kwargs = arm.optimizer_cls_and_kwargs(0.1)
        assert averages_weights(cls(parameter, **kwargs)) and arm.schedule == "constant"
    assert not averages_weights(torch.optim.SGD(parameter, lr=0.1))


# ------------------------------------------------------------------------------------------------------------- pictures


def test_a_folder_of_pictures_is_compared_in_bfloat16(
    again: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    generator = np.random.default_rng(0)
    for index in range(60):
        folder = tmp_path / "pets" / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    given = ("--arms", "critmom", "--num_seeds", "1", "--width", "2", "--max_steps", "2", "--bf16", "--use_cpu")
    batches = ("--per_device_train_batch_size", "24", "--eval_strategy", "steps", "--eval_steps", "1")
    data = ("--task", str(tmp_path / "pets"), "--targets", "0.9", "--output_dir", str(tmp_path / "out"))
    printed, witness = again("compare", *given, *batches, *data)
    assert "pets" in printed and witness.task is not None
    assert witness.task.image_shape == (3, 8, 8) and witness.task.label_names == ("cat", "dog")
    result = read_result(tmp_path / "out", "critmom", 42)
    assert [evaluation["step"] for evaluation in result["evaluations"]] == [1, 2]
    plan = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert plan["training"]["bf16"] is True and plan["task"]["source"] == "local folder pets"
