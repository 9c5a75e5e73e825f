"""Training arguments of the commands, and how they are recorded with results."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

import torch
from transformers import TrainingArguments

from hf_critmom.errors import InputError, root_message
from hf_critmom.storage.plan import json_roundtrip
from hf_critmom.storage.recorded_commands import recorded_value
from hf_critmom.storage.redaction import redact
from hf_critmom.training.flags import FLAGS, check_finite, check_flags

Arguments = TypeVar("Arguments", bound=TrainingArguments)


@dataclass
class CommandTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the defaults of this package's commands; every field is a flag.

    `hf_critmom.training.flags` says which flags are used, refused or ignored, and which are recorded.
    """

    decided: ClassVar[Mapping[str, str]] = {}
    """Flags that a command sets by other means, with the reason for which they are refused."""

    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Training batch size of each process."})
    per_device_eval_batch_size: int = field(default=500, metadata={"help": "Evaluation batch size of each process."})
    max_grad_norm: float = field(
        default=0.0,
        metadata={
            "help": "Maximum gradient norm; 0 disables clipping, because clipping would blur comparisons of SGD."
        },
    )
    save_total_limit: int | None = field(
        default=1, metadata={"help": "Number of checkpoints to keep while a run is unfinished."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Search for parameters without gradients when training in several processes."}
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide non-finite losses from the log."})

    def __post_init__(self) -> None:
        check_flags(self, self.decided)
        accelerated = torch.accelerator.is_available()
        if not accelerated:
            self.use_cpu = True  # Transformers accepts bf16 on a CPU only with use_cpu
        if self.fp16 and self.use_cpu:
            raise InputError("--fp16 needs an accelerator: on a CPU, use --bf16 or neither.")
        try:
            super().__post_init__()
        except (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError) as error:
            raise InputError(
                f"These training arguments cannot be used ({root_message(error)}): change them."
            ) from error
        check_finite(self)
        if not accelerated:
            self.dataloader_pin_memory = False
        self.remove_unused_columns = False  # batches hold exactly what the model takes
        self.disable_tqdm = True  # the commands show their own progress
        self.restore_callback_states_from_checkpoint = True
        self.hub_token = None  # nothing here pushes, and training_args.bin would keep it
        for name, value in list(vars(self).items()):  # trackers show them, and training_args.bin keeps them
            if type(value) is str and name != "output_dir":
                setattr(self, name, redact(value))


def recorded_training_arguments(args: TrainingArguments) -> dict[str, Any]:
    """Training arguments that results depend on and that differ from the defaults of Transformers."""
    return differing_arguments(decisive_arguments(args), use_cpu=args.use_cpu)


def decisive_arguments(args: TrainingArguments) -> dict[str, Any]:
    """Training arguments that results depend on, and the total batch size, as JSON values."""
    names = [part.name for part in fields(TrainingArguments) if part.name not in FLAGS or FLAGS[part.name].recorded]
    recorded = {name: recorded_value(json_roundtrip(getattr(args, name))) for name in names}
    recorded["total_train_batch_size"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return recorded


def differing_arguments(recorded: Mapping[str, Any], *, use_cpu: bool) -> dict[str, Any]:
    """The arguments among those of `decisive_arguments` that differ from the defaults of Transformers.

    Args:
        recorded: What `decisive_arguments` returned.
        use_cpu: Whether this process computes on its CPU; constructing the defaults sets its device again.
    """
    defaults = TrainingArguments(output_dir="unused", use_cpu=use_cpu)
    return {
        name: value
        for name, value in recorded.items()
        if not hasattr(defaults, name) or value != json_roundtrip(getattr(defaults, name))
    }


def settle_device(args: TrainingArguments, *, on_cpu: bool) -> None:
    """Sets the device of a process that has received portable arguments; call it before data is loaded there.

    Args:
        args: The arguments, see `portable_arguments`.
        on_cpu: Whether to use no accelerator.
    """
    args.use_cpu = on_cpu or not torch.accelerator.is_available()
    args.device  # noqa: B018  # the property sets it up


def portable_arguments(args: Arguments) -> Arguments:
    """A copy of training arguments that sets up its device where it is used, not where it was made."""
    portable: Any = copy.copy(args)
    for name in ("_setup_devices", "distributed_state"):
        portable.__dict__.pop(name, None)
    portable._n_gpu = -1
    return portable
