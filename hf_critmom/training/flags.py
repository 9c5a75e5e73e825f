"""How the commands treat each field of `TrainingArguments`, as one table.

A field is used, if its value is valid; or refused with a reason, because it would be ignored, would break what the
commands promise (runs that resume exactly, results that the plan explains) or has a command of its own; or ignored,
because it is harmless. A test compares the table with the installed release.
"""

import json
import math
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames

from hf_critmom.errors import InputError
from hf_critmom.optim import OPTIMIZERS
from hf_critmom.storage.files import read_text


@dataclass(frozen=True)
class Number:
    """The numbers that a flag accepts; never nan or infinite.

    Attributes:
        expected: Description of the numbers, to follow "must be".
        least: Smallest valid number.
        most: Largest valid number.
        above: Exclusive lower bound.
        below: Exclusive upper bound.
        none: A number outside the bounds that is accepted because it means "not set".
        whole_from: Number from which on only whole numbers are valid.
    """

    expected: str
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    none: float | None = None
    whole_from: float = math.inf

    def accepts(self, value: Any) -> bool:
        """Whether a value is valid."""
        if value == self.none:
            return True
        if not math.isfinite(value) or (value >= self.whole_from and not float(value).is_integer()):
            return False
        return self.least <= value <= self.most and self.above < value < self.below


@dataclass(frozen=True)
class OneOf:
    """The words that a flag accepts.

    Attributes:
        words: The valid words.
    """

    words: tuple[str, ...]

    @property
    def expected(self) -> str:
        """Description of the valid values, to follow "must be"."""
        return f"one of {', '.join(self.words)}"

    def accepts(self, value: Any) -> bool:
        """Whether a value is valid."""
        return value in self.words


@dataclass(frozen=True)
class Member:
    """The names that a flag accepts.

    Attributes:
        enum: The enumeration of the valid names, which other packages may extend.
    """

    enum: type[Enum]

    @property
    def expected(self) -> str:
        """Description of the valid values, to follow "must be"."""
        return f"one of {', '.join(member.value for member in self.enum)}"

    def accepts(self, value: Any) -> bool:
        """Whether a value is valid."""
        return any(value in (member, member.value) for member in self.enum)


@dataclass(frozen=True)
class Json:
    """A JSON object.

    Attributes:
        file: Whether the path of a file that holds such an object is valid, too.
    """

    file: bool = False

    @property
    def expected(self) -> str:
        """Description of the valid values, to follow "must be"."""
        return "a JSON object" + (" or the path of a file that holds one" if self.file else "")

    def accepts(self, value: Any) -> bool:
        """Whether a value is valid; a value other than a string has been parsed already."""
        if not isinstance(value, str):
            return True
        try:
            text = read_text(Path(value)) if self.file and not value.startswith("{") else value
            return isinstance(json.loads(text), dict)
        except (OSError, ValueError, RecursionError):
            return False


@dataclass(frozen=True)
class Used:
    """A flag that the commands use.

    Attributes:
        values: The valid values; None: whatever `TrainingArguments` accepts.
        recorded: Whether results depend on the flag, so that the plan records it.
    """

    values: Number | OneOf | Member | Json | None = None
    recorded: bool = True


@dataclass(frozen=True)
class Refused:
    """A flag that is refused unless it has the command's default.

    Attributes:
        reason: Why, and what to do instead.
        recorded: Whether plans record it if it differs from Transformers' default.
    """

    reason: str
    recorded: bool = True


@dataclass(frozen=True)
class Ignored:
    """A flag that has no effect here and is accepted with any value.

    Attributes:
        why: Why it is harmless.
        recorded: Whether plans record it if it differs from Transformers' default.
    """

    why: str
    recorded: bool = False


Treatment = Used | Refused | Ignored

MANY = 1_000_000
"""Upper bound of counts; anything above is a typing error."""

COUNT = Number("at least 1", least=1, most=MANY)
POSITIVE = Number("positive and finite", above=0.0)
RATE = Number(f"positive and at most {MANY:,}", above=0.0, most=MANY)
DECAY = Number(f"at least 0 and at most {MANY:,}", least=0.0, most=MANY)
STEPS = Number("a positive whole number, or a share of all steps below 1", above=0.0, whole_from=1.0)
NOT_NEGATIVE = Number("finite and not negative", least=0.0)
SHARE = Number("at least 0 and below 1", least=0.0, below=1.0)
SEED = Number("between 0 and 4294967295", least=0, most=2**32 - 1)

_SHOWN = Used(recorded=False)
_PUSH = Refused("finished results are published by hf-critmom push, which checks them first", recorded=False)
_HALF = Refused("it leaves the model in half precision after the first evaluation; --bf16 is mixed precision")
_KERNELS = Refused("it replaces layers by those of another package, which makes it another model")
_MEMORY = Refused(
    "it computes activations twice, and seconds are measured here: choose a smaller --per_device_train_batch_size with "
    "--gradient_accumulation_steps"
)
_METRICS = Refused("the metrics need the predictions and labels of the whole split, as arrays")
_EXACT = Refused("an interrupted run could not be continued exactly", recorded=False)
_LOSES_EXACTNESS = Refused("an interrupted run could not be continued exactly")
_ORDER = Refused("the order of the training data follows from the seed alone")
_ENGINE = Refused("its engine takes the optimizer steps itself, so the optimizer would not be the plan's")
_SCRIPTS = Ignored("it is a flag of example scripts; the commands decide what is done")

FLAGS: dict[str, Treatment] = {
    "output_dir": _SHOWN,
    "per_device_train_batch_size": Used(COUNT),
    "num_train_epochs": Used(Number(f"positive and at most {MANY:,}", above=0.0, most=MANY)),
    "max_steps": Used(Number("at least 1, or -1 for none", least=1, most=1000 * MANY, none=-1)),
    "learning_rate": Used(RATE),
    "lr_scheduler_type": Used(Member(SchedulerType)),
    "lr_scheduler_kwargs": Used(Json()),
    "warmup_steps": Used(
        Number("a whole number, or a share of all steps below 1", least=0.0, most=1000 * MANY, whole_from=1.0)
    ),
    "optim": Used(Member(OptimizerNames), recorded=False),
    "optim_args": Used(recorded=False),
    "weight_decay": Used(DECAY),
    "adam_beta1": Used(SHARE),
    "adam_beta2": Used(SHARE),
    "adam_epsilon": Used(POSITIVE),
    "optim_target_modules": Refused("the command chooses the layers that are trained"),
    "gradient_accumulation_steps": Used(COUNT),
    "average_tokens_across_devices": Used(),
    "max_grad_norm": Used(NOT_NEGATIVE),
    "label_smoothing_factor": Used(SHARE),
    "bf16": Used(),
    "fp16": Used(),
    "bf16_full_eval": _HALF,
    "fp16_full_eval": _HALF,
    "tf32": Used(),
    "activation_checkpointing": _MEMORY,
    "activation_checkpointing_kwargs": _MEMORY,
    "gradient_checkpointing": _MEMORY,
    "gradient_checkpointing_kwargs": _MEMORY,
    "torch_compile": Used(),
    "torch_compile_backend": Used(),
    "torch_compile_mode": Used(),
    "use_liger_kernel": _KERNELS,
    "liger_kernel_config": _KERNELS,
    "use_cache": Refused("a cache is useful for generation only"),
    "neftune_noise_alpha": Used(NOT_NEGATIVE),
    "torch_empty_cache_steps": Used(COUNT),
    "auto_find_batch_size": Refused("the batch size is part of the plan: give one that fits in memory"),
    "logging_strategy": Used(Member(IntervalStrategy), recorded=False),
    "logging_steps": Used(STEPS, recorded=False),
    "logging_first_step": _SHOWN,
    "log_on_each_node": _SHOWN,
    "logging_nan_inf_filter": Refused("a run that diverges must show", recorded=False),
    "include_num_input_tokens_seen": Used(),
    "log_level": _SHOWN,
    "log_level_replica": _SHOWN,
    "disable_tqdm": Ignored("the commands show their own progress"),
    "report_to": _SHOWN,
    "run_name": _SHOWN,
    "project": _SHOWN,
    "trackio_space_id": _SHOWN,
    "trackio_bucket_id": Used(),
    "trackio_static_space_id": Used(),
    "eval_strategy": Used(Member(IntervalStrategy)),
    "eval_steps": Used(STEPS),
    "eval_delay": Used(NOT_NEGATIVE),
    "per_device_eval_batch_size": Used(COUNT),
    "prediction_loss_only": _METRICS,
    "eval_on_start": Refused("--eval_strategy says when the network is evaluated", recorded=False),
    "eval_do_concat_batches": _METRICS,
    "eval_use_gather_object": _METRICS,
    "eval_accumulation_steps": Used(COUNT),
    "include_for_metrics": _METRICS,
    "batch_eval_metrics": _METRICS,
    "save_only_model": _EXACT,
    "save_strategy": Used(Member(SaveStrategy), recorded=False),
    "save_steps": Used(STEPS, recorded=False),
    "save_on_each_node": _SHOWN,
    "save_total_limit": Used(COUNT, recorded=False),
    "enable_jit_checkpoint": Refused("--save_strategy writes checkpoints, and the same command resumes from them"),
    "push_to_hub": _PUSH,
    "hub_token": Ignored("nothing is pushed here, and the token is dropped at once"),
    "hub_private_repo": _PUSH,
    "hub_model_id": _PUSH,
    "hub_strategy": _PUSH,
    "hub_always_push": _PUSH,
    "hub_revision": _PUSH,
    "load_best_model_at_end": Used(),
    "metric_for_best_model": Used(),
    "greater_is_better": Used(),
    "ignore_data_skip": _EXACT,
    "restore_callback_states_from_checkpoint": Ignored("the commands always restore them"),
    "full_determinism": Used(),
    "seed": Used(SEED, recorded=False),
    "data_seed": Used(SEED, recorded=False),
    "use_cpu": _SHOWN,
    "accelerator_config": Used(Json(file=True)),
    "parallelism_config": Refused("models are trained data-parallel; launch several processes with torchrun"),
    "dataloader_drop_last": Used(),
    "dataloader_num_workers": Used(Number("between 0 and 1,024", least=0, most=1024), recorded=False),
    "dataloader_pin_memory": _SHOWN,
    "dataloader_persistent_workers": _SHOWN,
    "dataloader_prefetch_factor": Used(COUNT, recorded=False),
    "dataloader_multiprocessing_context": Used(OneOf(tuple(multiprocessing.get_all_start_methods())), recorded=False),
    "dataloader_in_order": _EXACT,
    "remove_unused_columns": Ignored("batches hold exactly what the model takes"),
    "label_names": Refused("the model's class names its labels"),
    "train_sampling_strategy": _ORDER,
    "length_column_name": _ORDER,
    "ddp_find_unused_parameters": _SHOWN,
    "ddp_bucket_cap_mb": Used(COUNT),
    "ddp_broadcast_buffers": Used(),
    "ddp_static_graph": Used(),
    "ddp_backend": Used(OneOf(("nccl", "gloo", "mpi", "ccl", "hccl", "cncl", "mccl", "xccl"))),
    "ddp_timeout": Used(Number("between 1 and 31,536,000 seconds", least=1, most=31_536_000)),
    "fsdp": Used(),
    "fsdp_config": Used(Json(file=True)),
    "deepspeed": _ENGINE,
    "debug": _SHOWN,
    "skip_memory_metrics": Refused(
        "measuring memory slows training down, and seconds are measured here", recorded=False
    ),
    "do_train": _SCRIPTS,
    "do_eval": _SCRIPTS,
    "do_predict": _SCRIPTS,
    "resume_from_checkpoint": Refused("the same command resumes interrupted runs by itself", recorded=False),
    "local_rank": Ignored("torchrun and accelerate launch set it"),
}
"""Every field of `TrainingArguments` in the supported releases, with its treatment."""


def check_flags(args: TrainingArguments, decided: Mapping[str, str]) -> None:
    """Checks training arguments against the table, before Transformers reads them.

    Args:
        args: The arguments, of a class with the command's defaults.
        decided: Flags that the command sets by other means, with the reason.

    Raises:
        InputError: At the first flag that cannot be used, in one sentence.
    """
    for name, treatment in FLAGS.items():
        value = getattr(args, name, None)
        given = name in args.__dataclass_fields__ and value != _default(args, name)
        if given and name in decided:
            raise InputError(f"--{name} is not for this command: {decided[name]}.")
        if given and isinstance(treatment, Refused):
            raise InputError(f"--{name} is not for this command: {treatment.reason}.")
        if isinstance(treatment, Used) and treatment.values is not None:
            for part in value if isinstance(value, list) else [value]:
                if part is not None and not treatment.values.accepts(part):
                    raise InputError(f"--{name} must be {treatment.values.expected}, got {part}.")
    for name, useless, reason in _useless(args):
        if useless and getattr(args, name) != _default(args, name):
            raise InputError(f"--{name} would have no effect: {reason}.")


def check_finite(args: TrainingArguments) -> None:
    """Checks that no number in the JSON of a flag is nan or infinite.

    Raises:
        InputError: At the first such flag.
    """
    for name in FLAGS:
        if not all(map(math.isfinite, _numbers(getattr(args, name, None)))):
            raise InputError(f"--{name} holds a number that is not finite: give finite ones.")


def _useless(args: TrainingArguments) -> Iterator[tuple[str, bool, str]]:
    """Flags that other flags may leave without effect: name, whether they do, and why."""
    optim, saving, schedule = (
        str(getattr(value, "value", value)) for value in (args.optim, args.save_strategy, args.lr_scheduler_type)
    )
    adam = OPTIMIZERS[optim].takes_adam_arguments if optim in OPTIMIZERS else optim not in _WITHOUT_BETAS
    for name in ("adam_beta1", "adam_beta2", "adam_epsilon"):
        yield name, not adam, f"{optim} does not have it"
    yield "adam_beta1", optim == "critmom_adamw", "the first beta of critmom_adamw follows the learning rate"
    best = args.load_best_model_at_end or saving == "best" or schedule in ("reduce_lr_on_plateau", "greedy")
    for name in ("metric_for_best_model", "greater_is_better"):
        yield name, not best, "it chooses the checkpoint for --load_best_model_at_end"
    yield "fsdp_config", not args.fsdp, "it belongs to --fsdp"
    for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_multiprocessing_context"):
        yield name, args.dataloader_num_workers < 1, "it needs workers: give --dataloader_num_workers, too"


_WITHOUT_BETAS = ("sgd", "adagrad", "adafactor", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit")


def _default(args: TrainingArguments, name: str) -> Any:
    part = args.__dataclass_fields__[name]
    return part.default_factory() if callable(part.default_factory) else part.default


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, float):
        yield value
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from _numbers(part)
