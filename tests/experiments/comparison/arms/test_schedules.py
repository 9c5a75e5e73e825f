"""Claims about the schedules of arms: each against its formula written out, and across an interruption."""

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.distributed_programs import Perceptron, points
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerCallback, TrainingArguments

from hf_critmom import critical_momentum
from hf_critmom.experiments.comparison import Arm, ComparisonError
from hf_critmom.experiments.comparison.arms.schedules import SCHEDULES, matched_lr
from hf_critmom.experiments.comparison.running.execution import ArmTrainer

STEPS, PEAK = 20, 0.09
any_schedule = pytest.mark.parametrize("name", SCHEDULES)
pytestmark = pytest.mark.filterwarnings("error:.*lr_scheduler.step")  # torch's, of a scheduler ahead of its optimizer


def arguments(folder: str | Path = "unused", **fields: Any) -> TrainingArguments:
    return TrainingArguments(
        **{
            "output_dir": str(folder),
            "use_cpu": True,
            "learning_rate": PEAK,
            "lr_scheduler_type": "cosine",
            "report_to": "none",
            "disable_tqdm": True,
            **fields,
        }
    )


def sgd(momentum: float = 0.9) -> torch.optim.SGD:
    """Two groups, as the Trainer makes them: with weight decay and without."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "weight_decay": decay} for decay in (5e-4, 0.0)]
    return torch.optim.SGD(groups, lr=PEAK, momentum=momentum)


def values(optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    """Learning rate and momentum, the same in every group."""
    found = {(group["lr"], group["momentum"]) for group in optimizer.param_groups}
    assert len(found) == 1
    return found.pop()


def followed(name: str, args: TrainingArguments, *, steps: int = STEPS, momentum: float = 0.9) -> list[Any]:
    """Learning rate and momentum of each step of a run."""
    optimizer = sgd(momentum)
    schedule = SCHEDULES[name](optimizer, args, steps)
    used = []
    for _ in range(steps):
        used.append(values(optimizer))
        assert schedule.get_last_lr() == [used[-1][0]] * 2
        optimizer.step()
        schedule.step()
    return used


# ---------------------------------------------------------------------------------------------------------- reference


def cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def stable_then_decay(step: int, warmup: int) -> float:
    return 1.0 if step < STEPS - 6 else cosine((step - (STEPS - 6)) / 6)


Naive = Callable[[int, int], float]
"""The share of the peak learning rate at a step behind the warmup, from the step and the number of warmup steps."""

NAIVE: dict[str, tuple[Naive, dict[str, Any]]] = {
    "linear": (lambda step, warmup: (STEPS - step) / (STEPS - warmup), {}),
    "cosine": (lambda step, warmup: cosine((step - warmup) / (STEPS - warmup)), {}),
    "cosine_with_restarts": (
        lambda step, warmup: cosine(2.0 * (step - warmup) / (STEPS - warmup) % 1.0),
        {"num_cycles": 2},
    ),
    "polynomial": (
        lambda step, warmup: (1e-3 + (PEAK - 1e-3) * (1.0 - (step - warmup) / (STEPS - warmup)) ** 2) / PEAK,
        {"lr_end": 1e-3, "power": 2.0},
    ),
    "constant": (lambda step, warmup: 1.0, {}),
    "constant_with_warmup": (lambda step, warmup: 1.0, {}),
    "inverse_sqrt": (lambda step, warmup: math.sqrt(8.0 / (step + 8.0 - warmup)), {"timescale": 8}),
    "cosine_with_min_lr": (
        lambda step, warmup: 0.1 + 0.9 * cosine((step - warmup) / (STEPS - warmup)),
        {"min_lr_rate": 0.1},
    ),
    "warmup_stable_decay": (stable_then_decay, {"num_decay_steps": 6}),
}


def cases() -> Iterator[Any]:
    for kind in NAIVE:
        yield pytest.param(kind, 0, id=kind)
        if kind != "constant":
            yield pytest.param(kind, 5, id=f"{kind}-warmup")


every_kind = pytest.mark.parametrize(("kind", "warmup"), list(cases()))


def expected_lr(kind: str, warmup: int, step: int) -> float:
    return PEAK * (step / warmup if step < warmup else NAIVE[kind][0](step, warmup))


def of_kind(kind: str, warmup: int) -> TrainingArguments:
    return arguments(lr_scheduler_type=kind, warmup_steps=warmup, lr_scheduler_kwargs=NAIVE[kind][1])


@every_kind
def test_the_trainers_schedule_is_the_one_of_the_flags(kind: str, warmup: int) -> None:
    for step, (lr, momentum) in enumerate(followed("trainer", of_kind(kind, warmup))):
        assert lr == pytest.approx(expected_lr(kind, warmup, step), rel=1e-9, abs=1e-15)
        assert momentum == 0.9


# ------------------------------------------------------------------------------------------------------------ matched


@every_kind
def test_the_matched_learning_rate_follows_every_schedule_of_the_trainer_step_by_step(kind: str, warmup: int) -> None:
    for step, (lr, momentum) in enumerate(followed("matched", of_kind(kind, warmup))):
        assert lr == pytest.approx(0.05 * math.sqrt(expected_lr(kind, warmup, step)), rel=1e-9, abs=1e-9)
        assert momentum == 0.9


@given(st.floats(1e-12, 0.249), st.floats(0.0, 0.999))
def test_the_matched_run_takes_the_mean_step_of_the_critical_one(lr: float, momentum: float) -> None:
    """Facts, section 2: the mean step of a heavy ball is lr / (1 - mu), under the linear rule sqrt(lr) / 2."""
    assert 10.0 * matched_lr(lr) == pytest.approx(math.sqrt(lr) / 2.0, rel=1e-12)
    assert matched_lr(lr, momentum) / (1.0 - momentum) == pytest.approx(lr / (1.0 - critical_momentum(lr)), rel=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.8, 0.95])
def test_the_matched_learning_rate_depends_on_the_arms_momentum(momentum: float) -> None:
    for step, (lr, used) in enumerate(followed("matched", arguments(), momentum=momentum)):
        assert used == momentum
        assert lr / (1.0 - momentum) == pytest.approx(math.sqrt(expected_lr("cosine", 0, step)) / 2.0, rel=1e-9)


# -------------------------------------------------------------------------------------------------------------- demon


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.floats(0.01, 0.999))
def test_demons_momentum_is_the_papers(steps: int, initial: float) -> None:
    """beta_t = beta_0 r / ((1 - beta_0) + beta_0 r), r = 1 - t / T."""
    used = [momentum for _, momentum in followed("demon", arguments(), steps=steps, momentum=initial)]
    for step, momentum in enumerate(used):
        left = (steps - step) / steps
        assert momentum == pytest.approx(initial * left / ((1.0 - initial) + initial * left), rel=1e-12)
    assert used[0] == pytest.approx(initial, rel=1e-12)
    assert used == sorted(used, reverse=True)


def test_demon_ends_without_momentum_and_keeps_the_learning_rates_own_schedule() -> None:
    optimizer = sgd()
    schedule = SCHEDULES["demon"](optimizer, arguments(warmup_steps=4), STEPS)
    for step in range(STEPS):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected_lr("cosine", 4, step), abs=1e-15)
        optimizer.step()
        schedule.step()
    assert [group["momentum"] for group in optimizer.param_groups] == [0.0, 0.0]
    schedule.step()  # a run that goes on beyond its plan
    assert [group["momentum"] for group in optimizer.param_groups] == [0.0, 0.0]


# ------------------------------------------------------------------------------------------------ onecycle, constant


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 333])
def test_onecycle_is_torchs_with_its_defaults(steps: int) -> None:
    optimizer = sgd()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK, total_steps=steps)
    expected = []
    for _ in range(steps):
        expected.append(values(optimizer))
        optimizer.step()
        schedule.step()
    assert followed("onecycle", arguments(), steps=steps) == expected


def test_onecycle_takes_learning_rate_up_and_momentum_down_and_back() -> None:
    used = followed("onecycle", arguments(), steps=100)
    peak = max(range(100), key=lambda step: used[step][0])
    assert used[peak] == (pytest.approx(PEAK), pytest.approx(0.85)) and 25 <= peak <= 32
    assert used[0] == (pytest.approx(PEAK / 25.0), pytest.approx(0.95))
    assert used[-1] == (pytest.approx(PEAK / 25e4), pytest.approx(0.95))


def test_constant_is_constant() -> None:
    assert followed("constant", arguments(warmup_steps=5)) == [(PEAK, 0.9)] * STEPS


# ------------------------------------------------------------------------------------------------------------- refusal


@pytest.mark.parametrize("name", ["matched", "demon"])
@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_waits_for_evaluations_cannot_be_followed_step_by_step(name: str, kind: str) -> None:
    with pytest.raises(ComparisonError, match=f"--lr_scheduler_type {kind}"):
        SCHEDULES[name](sgd(), arguments(lr_scheduler_type=kind, eval_strategy="epoch"), STEPS)


# -------------------------------------------------------------------------------------------------------- interruption


def as_read_back(state: Any) -> Any:
    """What a checkpoint keeps of a state."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@any_schedule
@settings(max_examples=15, deadline=None)
@given(cut=st.integers(0, STEPS), kind=st.sampled_from(list(NAIVE)))
def test_a_run_that_is_continued_follows_the_schedule_of_one_that_is_not_interrupted(
    name: str, cut: int, kind: str
) -> None:
    args = of_kind(kind, 0 if kind == "constant" else 3)
    optimizer = sgd()
    schedule = SCHEDULES[name](optimizer, args, STEPS)
    for _ in range(cut):
        optimizer.step()
        schedule.step()
    kept = as_read_back({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()})

    continued = sgd()
    its_schedule = SCHEDULES[name](continued, args, STEPS)
    continued.load_state_dict(kept["optimizer"])  # the Trainer's order
    its_schedule.load_state_dict(kept["schedule"])
    for _ in range(cut, STEPS):
        assert values(continued) == values(optimizer)
        assert its_schedule.get_last_lr() == schedule.get_last_lr()
        for one, of_it in ((optimizer, schedule), (continued, its_schedule)):
            one.step()
            of_it.step()
    assert values(continued) == values(optimizer)


# --------------------------------------------------------------------------------------------------------- the Trainer


class Used(TrainerCallback):
    """Writes down what each optimizer step was made with."""

    def __init__(self) -> None:
        self.values: list[tuple[float, float]] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        self.values.append(values(optimizer))


def trained(name: str, folder: Path, **fields: Any) -> tuple[Used, ArmTrainer]:
    args = arguments(folder, per_device_train_batch_size=8, max_steps=STEPS, warmup_steps=3, **fields)
    resumed_from = folder / "checkpoint-7"
    used = Used()
    trainer = ArmTrainer(
        Arm("any", "sgd", {"momentum": 0.9}, schedule=name),
        args,
        model=Perceptron(),
        train_dataset=points(),
        callbacks=[used],
    )
    trainer.train(resume_from_checkpoint=str(resumed_from) if resumed_from.exists() else None)
    return used, trainer


@any_schedule
def test_the_trainer_of_an_arm_makes_each_step_by_its_schedule(name: str, tmp_path: Path) -> None:
    expected = followed(name, arguments(warmup_steps=3))
    used, trainer = trained(name, tmp_path / "whole", save_strategy="no", gradient_accumulation_steps=2)
    assert used.values == expected
    assert trainer.lr_scheduler is not None


@any_schedule
def test_the_trainer_of_an_arm_continues_from_a_checkpoint_bit_for_bit(name: str, tmp_path: Path) -> None:
    used, whole = trained(name, tmp_path, save_strategy="steps", save_steps=7)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-14",
        "checkpoint-20",
        "checkpoint-7",
    ]
    rest, continued = trained(name, tmp_path, save_strategy="no")
    assert used.values == followed(name, arguments(warmup_steps=3))
    assert rest.values == used.values[7:]
    for mine, theirs in zip(continued.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
