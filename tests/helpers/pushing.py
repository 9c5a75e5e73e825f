"""Names and small tools that tests of pushing share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.hub_server import USER

ARMS, SEEDS = ("constant", "critmom"), (42, 43)
TINY = (
    *("--width", "2", "--per_device_train_batch_size", "64", "--num_train_epochs", "1", "--targets", "0.5"),
    *("--max_train_samples", "64", "--max_eval_samples", "64", "--use_cpu", "--num_seeds", str(len(SEEDS))),
)
NAME = f"{USER}/digits"
COMMITTED = Path(__file__).parents[2] / "model_cards" / "digits-resnet18-w16"
RECORDS = {f"runs/{arm}/seed-{seed}/result.json" for arm in ARMS for seed in SEEDS}
MODEL = {"config.json", "model.safetensors", "preprocessor_config.json", ".eval_results/digits.yaml"}

Push = Callable[..., str]


class edited:
    """A JSON file, read on entering and written on leaving."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> Any:
        self.content = json.loads(self.file.read_text())
        return self.content

    def __exit__(self, *_: Any) -> None:
        self.file.write_text(json.dumps(self.content))


def results_in(folder: Path) -> set[str]:
    """Paths of everything that a push brings beside a model."""
    figures = {f"figures/{figure.name}" for figure in (folder / "figures").iterdir()}
    return {"README.md", "report.html", "comparison.json", "results.parquet", *RECORDS, *figures}


def card_of(files: dict[str, Any]) -> str:
    return files["README.md"].decode()
