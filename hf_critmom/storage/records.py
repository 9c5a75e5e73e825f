"""What results depend on, as it is recorded with them and compared when work continues."""

import json
from dataclasses import fields
from typing import Any

from transformers import TrainingArguments

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
        value = plain(getattr(args, part.name))
        if value != plain(getattr(defaults, part.name)):
            recorded[part.name] = value
    recorded["total_train_batch_size"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return recorded


def plain(value: Any) -> Any:
    """A value as JSON would hold it."""
    value = getattr(value, "value", value)  # enums
    return json.loads(json.dumps(value, default=str))


def differences(name: str, mine: Any, theirs: Any) -> list[str]:
    """What two records disagree about, as "name: mine and theirs", names of inner values with dots."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = list(dict.fromkeys([*mine, *theirs]))
        return [line for key in keys for line in differences(f"{name}.{key}", mine.get(key, "-"), theirs.get(key, "-"))]
    return [] if plain(mine) == plain(theirs) else [f"{name}: {mine} and {theirs}"]
