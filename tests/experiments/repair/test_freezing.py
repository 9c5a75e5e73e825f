"""Claims about what is frozen in a treatment, modules without parameters among them, and what is counted as trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_repairs import SmallClassifier, SmallConfig, small_classifier, small_repair
from torch import nn
from transformers import TrainerCallback

from hf_critmom.attribution.groups import layer_groups
from hf_critmom.experiments.repair.plan import RepairSettings
from hf_critmom.experiments.repair.treatment import freeze_except, mask_except, trained_share


class Block(nn.Module):
    """A layer with everything around it that has no parameters."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(8, size), nn.BatchNorm1d(size, affine=False), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(torch.tanh(self.norm(self.linear(x))))


class Normed(SmallClassifier):
    """Two blocks, a and b, with a norm and a dropout between them, and a head."""

    def __init__(self, config: SmallConfig | None = None) -> None:
        super().__init__(config)
        self.a, self.b, self.c, self.d = Block(8), Block(16), nn.Identity(), nn.Linear(16, 10)
        self.between, self.dropout = nn.BatchNorm1d(8, affine=False), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = self.d(self.b(self.dropout(self.between(self.a(x)))))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize(
    ("groups", "training"),
    [
        (["d"], set()),
        (["a"], {"a.norm", "a.drop"}),
        (["b", "d"], {"b.norm", "b.drop"}),
        (["a", "b", "d"], {"a.norm", "a.drop", "between", "dropout", "b.norm", "b.drop"}),
    ],
)
def test_a_module_without_parameters_is_frozen_with_what_is_around_it(groups: list[str], training: set[str]) -> None:
    model = Normed()
    plain = [name for name, one in model.named_modules() if isinstance(one, nn.BatchNorm1d | nn.Dropout)]
    with freeze_except(model, layer_groups(model), groups):
        model.train()
        model(torch.randn(16, 8), torch.zeros(16, dtype=torch.long))
        assert {name for name in plain if model.get_submodule(name).training} == training
    masks = {name: torch.full_like(p, any(name.startswith(g) for g in groups)).bool() for name, p in
             model.named_parameters()}  # fmt: skip
    with mask_except(model, masks):
        model.train()
        model(torch.randn(16, 8), torch.zeros(16, dtype=torch.long))
        assert {name for name in plain if model.get_submodule(name).training} == training


def test_what_was_frozen_before_takes_no_dropout_from_its_adapters() -> None:
    """As in LoRA: the layer is frozen, the adapter beside it has a dropout of its own."""
    adapted = nn.ModuleDict({"base": nn.Linear(8, 8), "dropout": nn.Dropout(0.5), "adapter": nn.Linear(8, 8)})
    model = nn.Sequential(adapted, nn.Linear(8, 2))
    adapted["base"].requires_grad_(False)
    model.forward = lambda: None  # type: ignore[assignment]
    for names, runs in ((["0"], True), (["1"], False)):
        with freeze_except(model, layer_groups(model, {"0": "^0", "1": "^1"}), names):
            model.train()
            model()
            assert adapted["dropout"].training == runs


class Statistics(TrainerCallback):
    """Notes the statistics of every norm before and after a treatment of the real Trainer."""

    seen: list[tuple[str, set[str]]] = []  # noqa: RUF012

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.before = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        changed = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, self.before[name])}
        self.seen.append((Path(args.output_dir).parent.name, {name for name in changed if "running_mean" in name}))


def test_the_statistics_of_everything_frozen_stay_as_they_were_in_the_real_treatment(tmp_path: Path) -> None:
    Statistics.seen.clear()
    settings = RepairSettings(groups=["b"], controls=True)
    small_repair(tmp_path, small_classifier(Normed), settings=settings, callbacks=(Statistics(),), seed=1)
    treated = dict(Statistics.seen)
    assert treated["b"] == {"b.norm.running_mean"} and treated["d"] == set()
    assert treated["a+b+d"] == {"a.norm.running_mean", "between.running_mean", "b.norm.running_mean"}


def test_frozen_values_of_a_chosen_group_are_not_counted_as_trained(tmp_path: Path) -> None:
    model = small_classifier()
    model.d.weight.requires_grad_(False)
    everything = sum(parameter.numel() for parameter in model.parameters())
    assert trained_share(layer_groups(model), model, ["d"]) == 10 / everything
    assert trained_share(layer_groups(model), model, ["c", "d"]) == (32 * 16 + 16 + 10) / everything
    repair = small_repair(tmp_path, model)
    assert repair.cost.parameter_share == 10 / everything == repair.num_trained(repair.roles["chosen"][0]) / everything
