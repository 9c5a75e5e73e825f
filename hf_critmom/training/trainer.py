"""The Trainer with critically damped momentum."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import is_sagemaker_mp_enabled, logging

from hf_critmom.optim import OPTIMIZERS, register
from hf_critmom.optim.resuming import check_state, guard_resuming
from hf_critmom.storage.checkpoint_folders import has_set_aside, set_aside
from hf_critmom.storage.checkpoints import (
    OPTIMIZER_FILE,
    CheckpointError,
    check_checkpoint,
    check_random_states,
    last_complete_checkpoint,
    read_torch_file,
    read_trainer_state,
)
from hf_critmom.training.callbacks import DampingCallback, LoggingCallback, give_curvature_callback, is_training_record
from hf_critmom.training.callbacks.set_aside import RemoveSetAside
from hf_critmom.training.cards import mend_model_card
from hf_critmom.training.weights import check_adapters, restore_weights, weights_for
from hf_critmom.upstream import trainer_loading

logger = logging.get_logger(__name__)


class CritMomTrainer(Trainer):
    """`transformers.Trainer` that trains with critically damped momentum and logs its damping state.

    The optimizer is that of ``args.optim``, or ``critmom`` if ``args.optim`` has the default of Transformers (one
    warning says so, and ``trainer.args``, a copy, records it). An optimizer passed as ``optimizers`` or
    ``optimizer_cls_and_kwargs`` is used as it is, so that baselines can run through the same Trainer. Each training
    record gains ``momentum``, ``damping_ratio`` and ``damping_regime``, see `DampingCallback`; an optimizer with
    ``curvature=auto`` is given the measured curvature, see `CurvatureCallback`; and the automatic model card names the
    optimizer that was really used. Callbacks that log by themselves need no reference to their trainer:
    ``CritMomTrainer(..., callbacks=[AttributionCallback()])``.
    """

    args: TrainingArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._skipped: list[Path] = []
        self._steps_before = 0
        super().__init__(*args, **kwargs)
        default = TrainingArguments.__dataclass_fields__["optim"].default
        if self.optimizer is None and self.optimizer_cls_and_kwargs is None and self.args.optim == default:
            register()  # importing the package only warns if registration fails: this raises
            self.args = copy.copy(self.args)
            self.args.optim = type(self.args.optim)("critmom")
            logger.warning_once(
                f"CritMomTrainer trains with critmom, because args.optim was left at {default}. Set args.optim to one "
                f"of {', '.join(OPTIMIZERS)} to choose, or pass optimizer_cls_and_kwargs for a baseline."
            )
        present = (one for one in self.callback_handler.callbacks if isinstance(one, DampingCallback))
        self.damping_callback = next(present, None) or DampingCallback(self)
        self.damping_callback.trainer = self
        if self.damping_callback not in self.callback_handler.callbacks:
            self.add_callback(self.damping_callback)
        give_curvature_callback(self)

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Adds a callback; one that logs by itself and has no trainer yet is given this one."""
        super().add_callback(callback)
        for added in self.callback_handler.callbacks:
            if isinstance(added, LoggingCallback) and added.trainer is None:
                added.trainer = self
        give_curvature_callback(self)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs, with the damping state merged into training records."""
        if is_training_record(logs):
            logs.update(self.damping_callback.metrics())
        super().log(logs, *args, **kwargs)

    def last_complete_checkpoint(self) -> str | None:
        """The newest checkpoint in the output folder from which this run can be resumed exactly.

        It holds the weights of this model, the states of optimizer, schedule and gradient scaler and the random state
        of every process, all readable. Others are skipped, each with a warning. The main process decides for all.

        Returns:
            The checkpoint for ``train(resume_from_checkpoint=...)``; None if there is none, so the run starts from the
            beginning.
        """
        found = self._find_checkpoint(self.args.world_size)
        if self._skipped and found is None:
            logger.warning(f"{self.args.output_dir} holds no complete checkpoint: the run starts from the beginning.")
        return found

    def _find_checkpoint(self, world_size: int | None) -> str | None:
        found = None
        self._skipped = []
        if self.is_world_process_zero():
            found = last_complete_checkpoint(
                Path(str(self.args.output_dir)),
                world_size=None if self.args.save_on_each_node else world_size,
                scaler=getattr(self.accelerator, "scaler", None) is not None,
                sharded=self._keeps_weights_elsewhere(),
                accepts=self._check_content,
                skip=self._skip,
            )
        return broadcast_object_list([found])[0]

    def _skip(self, checkpoint: Path, sentence: str) -> None:
        self._skipped.append(checkpoint)
        logger.warning(f"{sentence} The checkpoint is skipped.")

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as `transformers.Trainer` does, and resumes from a checkpoint exactly or not at all.

        Args:
            resume_from_checkpoint: A checkpoint; True: the last complete one in the output folder. If it holds the
                random states of another number of processes, a warning says that the run is not continued exactly.
            args: See `transformers.Trainer.train`.
            kwargs: See `transformers.Trainer.train`.

        Raises:
            CheckpointError: If the checkpoint lacks something or is damaged, or none in the folder is complete.
        """
        if resume_from_checkpoint is True:
            # Another number of processes is no reason to lose a run that the caller wants to resume.
            resume_from_checkpoint = self._find_checkpoint(self.args.world_size) or self._find_checkpoint(None)
            if resume_from_checkpoint is None:
                raise CheckpointError(f"{self.args.output_dir} holds no complete checkpoint to continue from.")
        if resume_from_checkpoint:
            self._check_checkpoint(Path(resume_from_checkpoint))
        if self.is_world_process_zero():
            set_aside(self._skipped)
            if has_set_aside(Path(str(self.args.output_dir))):
                self.add_callback(RemoveSetAside())
        self._skipped = []
        if resume_from_checkpoint or self.args.load_best_model_at_end:
            trainer_loading()
        if not resume_from_checkpoint:
            return super().train(None, *args, **kwargs)
        self._steps_before = read_trainer_state(Path(resume_from_checkpoint)).global_step
        if self.args.eval_on_start:  # the run has started already
            self.args = copy.copy(self.args)
            self.args.eval_on_start = False
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self._steps_before = 0

    def _check_checkpoint(self, checkpoint: Path) -> None:
        """Checks a checkpoint that the caller named, so that nothing that it lacks silently starts from zero."""
        check_checkpoint(
            checkpoint,
            world_size=None,
            scaler=getattr(self.accelerator, "scaler", None) is not None,
            sharded=self._keeps_weights_elsewhere(),
            weights_only=self.args.save_only_model,
        )
        if self.args.save_only_model:
            logger.warning(
                f"save_only_model: if {checkpoint} lacks optimizer, schedule or random states, they start from the "
                "beginning."
            )
        elif not self.args.save_on_each_node:
            try:
                check_random_states(checkpoint, self.args.world_size)
            except CheckpointError as error:
                logger.warning(f"{error} The run is not continued exactly.")

    def _check_content(self, checkpoint: Path) -> None:
        """Checks that a checkpoint's weights and optimizer state fit this run's model and optimizer."""
        if self._keeps_weights_elsewhere():
            return
        if not self._is_peft_model():
            weights_for(self.model, checkpoint)
        optimizer = self.create_optimizer()
        check_state(getattr(optimizer, "optimizer", optimizer), read_torch_file(checkpoint / OPTIMIZER_FILE))

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Creates the optimizer, which then refuses the state of another optimizer (see `guard_resuming`)."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if not self._keeps_weights_elsewhere():
            guard_resuming(getattr(optimizer, "optimizer", optimizer))  # inside Accelerate's wrapper, if any
        return optimizer

    # Restoring weights has no public hook: train checks that Transformers still calls these methods.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Restores every tensor of a checkpoint, under whatever name it is saved; see `restore_weights`."""
        load, _ = trainer_loading()
        if self._keeps_weights_elsewhere():
            load(self, resume_from_checkpoint, model)
        else:
            self._restore(Path(resume_from_checkpoint), lambda: load(self, resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Restores every tensor of the best checkpoint (``load_best_model_at_end``)."""
        _, load_best = trainer_loading()
        if self._keeps_weights_elsewhere():
            load_best(self)
        else:
            self._restore(Path(str(self.state.best_model_checkpoint)), lambda: load_best(self))

    def _keeps_weights_elsewhere(self) -> bool:
        """Whether weights are sharded over processes; Accelerate then loads them under their own names."""
        return bool(
            self.is_fsdp_enabled
            or self.is_deepspeed_enabled
            or self.is_fsdp_xla_enabled
            or getattr(self.model, "is_distributed_loading_by_transformers", False)  # from Transformers 5.19 on
            or is_sagemaker_mp_enabled()
        )

    def _restore(self, checkpoint: Path, load_adapters: Callable[[], None]) -> None:
        if self._is_peft_model():
            load_adapters()
            check_adapters(self.model, checkpoint)
        else:
            restore_weights(self.model, checkpoint)

    def _is_peft_model(self) -> bool:
        return not isinstance(self.model, PreTrainedModel) and hasattr(self.model, "peft_config")

    def set_initial_training_values(self, args: TrainingArguments, dataloader: Any) -> Any:
        """Numbers of epochs and steps; no further epoch if the checkpoint was written after the last step.

        Otherwise a run that ends within an epoch would take another step.
        """
        epochs, steps_per_epoch, *others, max_steps = super().set_initial_training_values(args, dataloader)
        if self._steps_before >= max_steps:
            epochs = min(epochs, self._steps_before // steps_per_epoch)
        return epochs, steps_per_epoch, *others, max_steps

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes the automatic card, with the optimizer that trained rather than that of ``args.optim``.

        It holds neither secrets nor absolute paths. Its tags include those that a tracker gave the model, by which the
        Hub finds the training metrics.
        """
        if (tags := getattr(self.model, "model_tags", None)) and not args and kwargs.get("tags") is None:
            kwargs["tags"] = list(tags)
        super().create_model_card(*args, **kwargs)
        mend_model_card(self)
