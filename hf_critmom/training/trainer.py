"""The Trainer with critically damped momentum."""

import copy
import re
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from hf_critmom.optim import OPTIMIZERS, register
from hf_critmom.storage.commands import redact, shorten_paths
from hf_critmom.training.callbacks import DampingCallback, LoggingCallback, is_training_record

logger = logging.get_logger(__name__)


class CritMomTrainer(Trainer):
    """`transformers.Trainer` that trains with critically damped momentum and logs its damping state.

    The optimizer is the one of ``args.optim`` if it names one; where ``args.optim`` was left at the default of
    Transformers, it is ``critmom`` (said once in a warning, and recorded in ``trainer.args``, a copy). An optimizer
    passed as ``optimizers`` or ``optimizer_cls_and_kwargs`` is taken as it is, so that baselines can run through the
    same Trainer. Each training record gains ``momentum``, ``damping_ratio`` and ``damping_regime``, see
    `DampingCallback`, and the automatic model card names the optimizer that was really used. Callbacks that log by
    themselves need not be given their trainer: ``CritMomTrainer(..., callbacks=[AttributionCallback()])``.
    """

    args: TrainingArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        default = TrainingArguments.__dataclass_fields__["optim"].default
        if self.optimizer is None and self.optimizer_cls_and_kwargs is None and self.args.optim == default:
            register()  # importing the package only warned where Transformers cannot know the name: say so here
            self.args = copy.copy(self.args)
            self.args.optim = type(self.args.optim)("critmom")
            logger.warning_once(
                f"CritMomTrainer trains with critmom, since args.optim was left at {default}. Set args.optim to one "
                f"of {', '.join(OPTIMIZERS)} to choose, or pass optimizer_cls_and_kwargs for a baseline."
            )
        self.damping_callback = DampingCallback(self)
        self.add_callback(self.damping_callback)

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Adds a callback; one that logs by itself and has no trainer yet is given this one."""
        super().add_callback(callback)
        for added in self.callback_handler.callbacks:
            if isinstance(added, LoggingCallback) and added.trainer is None:
                added.trainer = self

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs, with the damping state merged into the records of training."""
        if is_training_record(logs):
            logs.update(self.damping_callback.metrics())
        super().log(logs, *args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # A run that ends within an epoch and was interrupted behind its last step would take another one.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes the automatic card, naming the optimizer that trained rather than the one of ``args.optim``.

        Neither secrets nor absolute paths are left in it.
        """
        super().create_model_card(*args, **kwargs)
        card = Path(self.args.output_dir) / "README.md"
        if self.is_world_process_zero() and card.exists():
            text = shorten_paths(redact(card.read_text(encoding="utf-8")))
            if self.optimizer is not None:
                named = f"- optimizer: {_describe(self.optimizer)}\n"
                text = re.sub(r"^- optimizer: .*\n(?:(?!- |\n|#).*\n)*", lambda _: named, text, flags=re.M)
            card.write_text(text, encoding="utf-8")


def _describe(optimizer: Any) -> str:
    """An optimizer's class with its plain options, without the schedule's current values."""
    optimizer = getattr(optimizer, "optimizer", optimizer)  # Accelerate's wrapper
    defaults = dict(optimizer.defaults)
    scheduled = {"lr", "weight_decay"}
    if "rule" in defaults:  # its momentum follows the learning rate
        scheduled |= {"momentum", "betas"}
        if "betas" in defaults:
            defaults["beta2"] = defaults["betas"][1]
    options = {
        name: value
        for name, value in defaults.items()
        if name not in scheduled and value not in (None, False) and isinstance(value, (str, int, float, tuple, bool))
    }
    return f"{type(optimizer).__name__}({', '.join(f'{name}={value}' for name, value in options.items())})"
