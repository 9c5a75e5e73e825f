"""What `test_several_processes.py` starts under torchrun: comparisons, and which process opened which file to write.

torchrun --nproc_per_node 2 tests/distributed_comparisons.py FOLDER
"""

import json
import os
import sys
from pathlib import Path

from hf_critmom.commands import main

TOTAL_BATCH = 8
TINY = ("--hidden_size", "8", "--num_hidden_layers", "1", "--num_attention_heads", "2", "--num_seeds", "1", "--use_cpu")
COMPARISONS = {
    # The learning rate is beyond the limit of the linear rule, as one that was scaled with the processes may be.
    "text": (
        *("--task", "text", "--block_size", "16", "--arms", "critmom", "--learning_rate", "0.3", *TINY),
        *("--max_train_samples", "32", "--max_eval_samples", "24", "--max_steps", "6", "--eval_steps", "3"),
    ),
    "vit": (
        *("--model", "vit", "--patch_size", "4", "--arms", "critmom", "critmom_adamw", *TINY, "--targets", "0.05"),
        *(
            "--max_train_samples",
            "64",
            "--max_eval_samples",
            "21",
            "--num_train_epochs",
            "2",
            "--evaluations_per_epoch",
            "1",
        ),
    ),
    "pilot": (
        *("--model", "vit", "--patch_size", "4", "--arms", "adamw[lr=0.01]", *TINY, "--pilot"),
        *("--max_train_samples", "256", "--max_eval_samples", "48", "--num_train_epochs", "2"),
        *("--evaluations_per_epoch", "1"),
    ),
}


def words_of(name: str, folder: Path, num_processes: int) -> tuple[str, ...]:
    """The command of a comparison whose total batch does not depend on the number of processes."""
    batch = str(TOTAL_BATCH // num_processes)
    batches = ("--per_device_train_batch_size", batch, "--per_device_eval_batch_size", batch)
    return ("compare", *COMPARISONS[name], *batches, "--output_dir", str(folder / name))


def run(folder: Path) -> None:
    written: list[str] = []

    def watch(event: str, details: tuple[object, ...]) -> None:
        if event == "open" and str(details[0]).startswith(str(folder)):
            flags = details[2]
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR):
                written.append(str(details[0]))

    sys.addaudithook(watch)
    for name in COMPARISONS:
        assert main(words_of(name, folder, int(os.environ["WORLD_SIZE"]))) == 0
    shared_batches = ("--accelerator_config", '{"split_batches": true}', "--per_device_train_batch_size", "7")
    assert main(("compare", *COMPARISONS["vit"], *shared_batches, "--output_dir", f"{folder}/refused")) == 2
    files = sorted(file.replace(f".{os.getpid()}.", ".") for file in set(written))
    Path(f"{folder}-{os.environ['RANK']}.json").write_text(json.dumps(files))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
