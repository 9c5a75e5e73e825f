"""The plan of a comparison: written before the first run, compared with what is asked for at every later command."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hf_critmom.comparison.arms import Arm
from hf_critmom.comparison.errors import ComparisonError
from hf_critmom.errors import reason
from hf_critmom.files import claim_folder, write_json

PLAN_FILE = "comparison.json"

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


@dataclass(frozen=True)
class Plan:
    """Everything that the results of a comparison depend on.

    Attributes:
        task: The task's description, with fingerprints of its splits.
        model: The model's flags, and its number of parameters.
        arms: Every arm's optimizer and options by name.
        seeds: Seeds of the runs of every arm.
        targets: Metric values whose first reaching is timed, judged at every evaluation on the validation split.
        training: Training arguments that differ from the defaults of Transformers, and the total batch size.
        versions: Versions of what computes; a difference is said, not refused.
        command: The command line that made the plan.
    """

    task: dict[str, Any]
    model: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    seeds: list[int]
    targets: list[float]
    training: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""

    def differences(self, other: "Plan") -> list[str]:
        """What results depend on and the two plans disagree about, as "name: mine, theirs"."""
        found = []
        for part in fields(self):
            if part.name not in ("versions", "command"):
                found += _differences(part.name, getattr(self, part.name), getattr(other, part.name))
        return found

    def write(self, folder: Path) -> None:
        """Stores the plan in a folder."""
        write_json(folder / PLAN_FILE, {part.name: getattr(self, part.name) for part in fields(self)})

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """Reads the plan of a folder.

        Raises:
            ComparisonError: If there is none, or it is not one.
        """
        try:
            stored = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
            return cls(**stored)
        except (FileNotFoundError, NotADirectoryError):
            raise ComparisonError(f"{folder} holds no comparison: expected a folder with a {PLAN_FILE}.") from None
        except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
            raise ComparisonError(
                f"{folder / PLAN_FILE} is not the plan of a comparison ({reason(error)}): choose another --output_dir."
            ) from None


def settle_plan(plan: Plan, folder: Path, *, write: bool) -> Plan:
    """The plan that governs a folder: the stored one if it is the same as this, else this, which is then stored.

    Raises:
        ComparisonError: If the folder holds a different plan or other files, or cannot be written.
    """
    if (folder / PLAN_FILE).exists():
        stored = Plan.read(folder)
        if different := stored.differences(plan):
            raise ComparisonError(
                f"{folder} holds a comparison with a different plan ({'; '.join(different)}; stored first): "
                "repeat the stored command to continue it, or choose another --output_dir."
            )
        return stored
    claim_folder(folder, "comparison", ComparisonError, write=write)
    if write:
        plan.write(folder)
    return plan


def recorded_training_arguments(args: TrainingArguments) -> dict[str, Any]:
    """Training arguments that results depend on and that differ from the defaults of Transformers."""
    # Constructing arguments settles the device of the whole process anew: it must come out as it was.
    defaults = TrainingArguments(output_dir="unused", use_cpu=args.use_cpu)
    recorded: dict[str, Any] = {}
    for part in fields(TrainingArguments):
        left_out = part.name in _NOT_RECORDED or part.name.startswith(_NOT_RECORDED_PREFIXES)
        if left_out and part.name not in _RECORDED:
            continue
        value = _plain(getattr(args, part.name))
        if value != _plain(getattr(defaults, part.name)):
            recorded[part.name] = value
    recorded["total_train_batch_size"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return recorded


def recorded_arm(arm: Arm) -> dict[str, Any]:
    """What an arm's results depend on."""
    return {"optimizer": arm.optimizer, "options": dict(arm.options)}


def _plain(value: Any) -> Any:
    """A value as JSON would hold it."""
    value = getattr(value, "value", value)  # enums
    return json.loads(json.dumps(value, default=str))


def _differences(name: str, mine: Any, theirs: Any) -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = list(dict.fromkeys([*mine, *theirs]))
        return [
            line for key in keys for line in _differences(f"{name}.{key}", mine.get(key, "-"), theirs.get(key, "-"))
        ]
    return [] if _plain(mine) == _plain(theirs) else [f"{name}: {mine} and {theirs}"]
