"""Removes the checkpoints that a resumed run has skipped, once they are of no use."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_critmom.storage.checkpoint_folders import remove_set_aside


class RemoveSetAside(TrainerCallback):
    """Removes checkpoints that were set aside as incomplete, once the run has written another."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            remove_set_aside(Path(str(args.output_dir)))
