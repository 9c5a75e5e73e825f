"""A repair of a tiny classifier through the real Trainer, which takes a second."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, TrainingArguments, set_seed

from hf_critmom import repair_layers
from hf_critmom.experiments.repair.plan import RepairSettings
from hf_critmom.experiments.repair.results import Repair

CLASSES = 10


class SmallConfig(PretrainedConfig):
    model_type = "small-repair"


class SmallClassifier(PreTrainedModel):
    """Four linear layers, which are its layer groups: a, b, c and d."""

    config_class = SmallConfig

    def __init__(self, config: SmallConfig | None = None) -> None:
        super().__init__(config or SmallConfig())
        self.a, self.b, self.c = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 16)
        self.d = nn.Linear(16, CLASSES)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = self.d(torch.tanh(self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))))
        return {"loss": nn.functional.cross_entropy(logits.float(), labels), "logits": logits}


def small_classifier(kind: type[SmallClassifier] = SmallClassifier, *, steps: int = 0) -> SmallClassifier:
    """A classifier of a kind, after some steps of training."""
    set_seed(0)
    model, examples = kind(), small_examples(4000, seed=7)
    inputs = {name: torch.stack([example[name] for example in examples]) for name in ("x", "labels")}
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**inputs)["loss"].backward()
        optimizer.step()
    return model


def small_examples(number: int, *, seed: int) -> list[dict[str, torch.Tensor]]:
    """Examples whose classes are noisy, so that no network predicts all of them."""
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(8, CLASSES, generator=torch.Generator().manual_seed(99))
    inputs = torch.randn(number, 8, generator=generator)
    labels = (inputs @ teacher + 2.0 * torch.randn(number, CLASSES, generator=generator)).argmax(1)
    return [{"x": x, "labels": label} for x, label in zip(inputs, labels, strict=True)]


def small_repair(
    folder: Path,
    model: SmallClassifier | None = None,
    *,
    diagnosis: int = 60,
    test: int = 60,
    settings: RepairSettings | None = None,
    callbacks: tuple[Any, ...] = (),
    workers: int = 1,
    **arguments: Any,
) -> Repair:
    """Repairs a classifier; further arguments are those of `TrainingArguments`."""
    given = {"optim": "sgd", "num_train_epochs": 1, "per_device_train_batch_size": 64, "save_strategy": "no"}
    plain = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "remove_unused_columns": False}
    return repair_layers(
        small_classifier() if model is None else model,
        args=TrainingArguments(str(folder), **{**given, **plain, **arguments}),
        train_dataset=small_examples(256, seed=1),
        diagnosis_dataset=small_examples(diagnosis, seed=2),
        test_dataset=small_examples(test, seed=3),
        settings=settings or RepairSettings(groups=["d"]),
        callbacks=callbacks,
        workers=workers,
        threads=1,
    )
