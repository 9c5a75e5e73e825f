"""Training arguments of the commands, and how they are recorded with results."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers import TrainingArguments

from hf_critmom.errors import InputError
from hf_critmom.storage.commands import recorded_value, redact
from hf_critmom.storage.plan import plain


@dataclass
class CommandTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the defaults of this package's commands; every one is a flag, and recorded."""

    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Training batch size of each process."})
    per_device_eval_batch_size: int = field(default=500, metadata={"help": "Evaluation batch size of each process."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0: none, it confounds SGD."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept while a run is unfinished."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Search for parameters without gradient under several processes."}
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide non-finite losses from the log."})

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0.0):
            raise InputError(f"--learning_rate must be positive and finite, got {self.learning_rate}.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0.0):
            raise InputError(f"--weight_decay must be finite and not negative, got {self.weight_decay}.")
        for flag in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, flag) < 1:
                raise InputError(f"--{flag} must be at least 1, got {getattr(self, flag)}.")
        if self.dataloader_persistent_workers and self.dataloader_num_workers < 1:
            raise InputError("--dataloader_persistent_workers needs workers: give --dataloader_num_workers, too.")
        accelerated = torch.accelerator.is_available()
        if not accelerated:
            self.use_cpu = True  # Transformers takes bf16 on a CPU only if told that it is one
        super().__post_init__()
        if not accelerated:
            self.dataloader_pin_memory = False
        self.remove_unused_columns = False  # the data hands out exactly what the model takes
        self.disable_tqdm = True  # the commands show their own progress
        self.restore_callback_states_from_checkpoint = True
        self.hub_token = None  # nothing here pushes, and training_args.bin would keep it
        run_name: str | None = getattr(self, "run_name", None)
        self.run_name = None if run_name is None else redact(run_name)  # trackers show it


_NOT_RECORDED = {
    # Where things go, how they are shown and what the plan holds elsewhere.
    *("output_dir", "run_name", "report_to", "project", "trackio_space_id", "disable_tqdm", "debug", "push_to_hub"),
    *("log_level", "log_level_replica", "log_on_each_node", "seed", "data_seed", "do_train", "do_eval", "do_predict"),
    *("eval_on_start", "skip_memory_metrics", "ignore_data_skip", "restore_callback_states_from_checkpoint"),
    *("resume_from_checkpoint", "local_rank", "optim", "optim_args", "use_cpu", "remove_unused_columns"),
    "ddp_find_unused_parameters",
}
_NOT_RECORDED_PREFIXES = ("hub_", "logging_", "save_", "dataloader_")
_RECORDED = {"dataloader_drop_last"}  # despite its prefix


def recorded_training_arguments(args: TrainingArguments) -> dict[str, Any]:
    """Training arguments that results depend on and that differ from the defaults of Transformers."""
    # Constructing arguments settles the device of the whole process anew: it must come out as it was.
    defaults = TrainingArguments(output_dir="unused", use_cpu=args.use_cpu)
    recorded: dict[str, Any] = {}
    for part in fields(TrainingArguments):
        left_out = part.name in _NOT_RECORDED or part.name.startswith(_NOT_RECORDED_PREFIXES)
        if left_out and part.name not in _RECORDED:
            continue
        value = recorded_value(plain(getattr(args, part.name)))
        if value != plain(getattr(defaults, part.name)):
            recorded[part.name] = value
    recorded["total_train_batch_size"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return recorded
