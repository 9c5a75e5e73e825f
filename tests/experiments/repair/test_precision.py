"""Claims about what a repair computes with: one precision throughout, and models of every kind of output."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_repairs import SmallClassifier, small_classifier, small_repair

from hf_critmom.experiments.repair.plan import RepairSettings


class Watched(SmallClassifier):
    """Notes whether each of its forward passes was autocast."""

    autocast: list[bool] = []  # noqa: RUF012  # copies of the model share it

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        return super().forward(x, labels)


class Tuples(SmallClassifier):
    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        found = super().forward(x, labels)
        return found["loss"], found["logits"]


def test_what_was_not_trained_fixes_and_breaks_nothing_in_mixed_precision(tmp_path: Path) -> None:
    """A learning rate at which no weight changes: any difference would be one of rounding."""
    model = small_classifier(steps=200)
    repair = small_repair(tmp_path, model, test=10_000, bf16=True, learning_rate=1e-12, weight_decay=0.0)
    assert repair.verification is not None and repair.verification.accuracy_before > 0.2
    assert (repair.verification.fixed, repair.verification.broken) == (0, 0)


@pytest.mark.parametrize("bf16", [True, False])
def test_every_pass_is_in_the_precision_of_the_arguments(tmp_path: Path, bf16: bool) -> None:
    model = small_classifier(Watched)
    Watched.autocast.clear()
    settings = RepairSettings(groups=["d"], controls=True, granularity="parameter")
    small_repair(tmp_path, model, settings=settings, bf16=bf16)
    assert len(Watched.autocast) > 50 and set(Watched.autocast) == {bf16}


def test_a_model_that_returns_tuples_is_repaired_with_its_cost(tmp_path: Path) -> None:
    model = Tuples()
    model.load_state_dict(small_classifier().state_dict())
    plain, tuples = small_repair(tmp_path / "plain"), small_repair(tmp_path / "tuples", model)
    assert tuples.verification == plain.verification and tuples.cost.seconds > 0.0
