"""Attributes the remaining mistakes to layer groups, after each evaluation."""

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from hf_critmom.attribution.attribution import attribute_gradients, check_options
from hf_critmom.attribution.errors import AttributionError
from hf_critmom.attribution.groups import Groups
from hf_critmom.curvature.owned import generators_of
from hf_critmom.training.callbacks.logged import LoggingCallback, gradient_obstacle
from hf_critmom.training.callbacks.observing import log_beside, observing_copy
from hf_critmom.training.callbacks.reading import left_alone
from hf_critmom.training.history import read_history, write_history

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.get_logger(__name__)


class AttributionCallback(LoggingCallback):
    """Attributes the remaining mistakes to layer groups, after each evaluation.

    Logs ``eval_attribution/GROUP``, the group's share in the squared norm of the mean gradient on misclassified
    examples (mispredicted tokens of a language model), in a record of its own, and keeps all that `attribute_gradients`
    returns in ``attribution_history.json`` in the output folder. A run is bit-identical with and without the callback.
    If gradients are not available (no mistakes, a loss that is not finite, DeepSpeed, FSDP1), it warns once and
    training goes on.

    Args:
        trainer: The trainer; not needed with `CritMomTrainer`.
        every: Number of evaluations from one attribution to the next.
        select: Examples on which the gradient is taken, see `attribute_gradients`.
        groups: Layer groups, see `layer_groups`.
        batch_size: Number of rows in a backward pass, see `attribute_gradients`.
    """

    def __init__(
        self,
        trainer: "Trainer | None" = None,
        *,
        every: int = 1,
        select: str = "misclassified",
        groups: Groups = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(trainer)
        if every < 1:
            raise AttributionError(f"every must be at least 1, got {every}.")
        check_options(select, batch_size=batch_size)
        self.every = every
        self.select = select
        self.groups = groups
        self.batch_size = batch_size
        self.history: list[dict[str, Any]] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        earlier = read_history(args.output_dir) if state.global_step else []
        self.history = [entry for entry in earlier if entry["step"] <= state.global_step]

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        trainer = self.trainer
        # The prefix is eval, test, or eval_NAME for one of several evaluation sets.
        timed = next((name for name in metrics or {} if name.endswith("_runtime")), None)
        if trainer is None or timed is None or eval_dataloader is None:
            return
        if sum(timed in record for record in state.log_history) % self.every:
            return
        if obstacle := gradient_obstacle(trainer):
            logger.warning_once(f"AttributionCallback attributes nothing: {obstacle}.")
            return

        twin = observing_copy(trainer)

        def compute_loss(model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
            return twin.compute_loss(model, inputs, return_outputs=True)

        # The data are read once more: their generators may be those of the training data, too.
        reading = (getattr(eval_dataloader, name, None) for name in ("dataset", "collate_fn", "batch_sampler"))
        generators = generators_of(trainer.model)
        try:
            with left_alone(*reading):
                attribution = attribute_gradients(
                    trainer.model,
                    eval_dataloader,
                    groups=self.groups,
                    select=self.select,
                    batch_size=self.batch_size,
                    compute_loss=compute_loss,
                    accelerator=trainer.accelerator,
                    label_name=next(iter(trainer.label_names), "labels"),
                )
        except AttributionError as error:
            logger.warning_once(f"AttributionCallback attributes nothing after this evaluation. {error}")
            return
        finally:
            generators.restore()
        prefix = timed.removesuffix("_runtime")
        log_beside(trainer, {f"{prefix}_attribution/{group}": share for group, share in attribution.shares.items()})
        if self.history is None:  # an evaluation without training
            self.history = read_history(args.output_dir)
        found = {"step": state.global_step, "epoch": state.epoch, "prefix": prefix, **attribution.to_dict()}
        self.history.append(found)
        if state.is_world_process_zero:
            try:
                write_history(args.output_dir, self.history)
            except OSError as error:  # no reason to lose the run
                logger.warning_once(
                    f"AttributionCallback cannot write into {args.output_dir} ({error.strerror or error}): the "
                    "attributions are logged, and written as soon as that is possible."
                )
