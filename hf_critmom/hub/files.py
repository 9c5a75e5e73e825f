"""Which files of a comparison are published: an explicit list of names, none of them a link."""

import re
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from hf_critmom.experiments.comparison.plan import PLAN_FILE, Plan
from hf_critmom.experiments.comparison.records import DRIFT_FILE
from hf_critmom.experiments.comparison.results import RESULT_FILE, RESULTS_FILE, read_results, tuned_runs
from hf_critmom.hub.errors import HubError
from hf_critmom.reporting.page import PAGE_FILE

CARD_FILE = "README.md"

RECORD_FILES = (RESULT_FILE, DRIFT_FILE)
"""Files of each planned run that are published."""

_REPORT = re.compile(rf"{CARD_FILE}|{PAGE_FILE}|{RESULTS_FILE}|{PLAN_FILE}|figures/[\w.-]+\.(?:png|svg)", re.ASCII)

_WEIGHTS = re.compile(r"(?:adapter_)?model(?:-\d{5}-of-\d{5})?\.safetensors", re.ASCII)
MODEL_FILES = {
    *("config.json", "generation_config.json", "adapter_config.json", "model.safetensors.index.json"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *(
        "chat_template.jinja",
        "chat_template.json",
        "vocab.json",
        "vocab.txt",
        "vocab.bpe",
        "merges.txt",
        "normalizer.json",
    ),
    *("spiece.model", "tokenizer.model", "sentencepiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm"),
}
"""Names that `save_pretrained` gives to the files of configurations, tokenizers and processors."""


def copy_records(folder: Path, copy: Path) -> None:
    """Copies plan and records of a comparison, and nothing else, to a folder in which its report can be rebuilt.

    Args:
        folder: The comparison's folder.
        copy: An empty folder.

    Raises:
        HubError: If one of these files is a link, is reached through one, or lies outside the folder.
        ComparisonError: If the folder holds no comparison, or a damaged one.
    """
    _copy(folder, copy, Path(PLAN_FILE))
    plan = Plan.read(copy)
    planned = [*plan.runs(), *plan.trials()]
    _copy_all(folder, copy, (run.folder for run in planned))
    tuned = tuned_runs(plan, read_results(copy, plan).choices)
    _copy_all(folder, copy, (run.folder for run in tuned))


def report_files(folder: Path) -> list[Path]:
    """Files of a report and its records, relative to a folder that `copy_records` has filled."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [file for file in files if _REPORT.fullmatch(file.as_posix()) or file.name in RECORD_FILES]


def model_files(run: Path, folder: Path) -> list[Path]:
    """Files from which ``from_pretrained`` loads a run's model and processor; empty if there is no model.

    Args:
        run: The run's folder.
        folder: The comparison's folder, which contains the run's.

    Raises:
        HubError: If one of them is a link, or the run is reached through one, or lies outside the folder.
    """
    if not run.is_dir():
        return []
    found = [path for path in sorted(run.iterdir()) if path.name in MODEL_FILES or _WEIGHTS.fullmatch(path.name)]
    names = {path.name for path in found}
    if not names & {"config.json", "adapter_config.json"} or not any(map(_WEIGHTS.fullmatch, names)):
        return []
    return [regular_file(folder, path.relative_to(folder)) for path in found]


def regular_file(folder: Path, relative: Path) -> Path:
    """A file in a folder that is neither a link nor reached through one.

    Args:
        folder: The folder, which may itself be reached by a link.
        relative: The file's path in it.

    Raises:
        HubError: If the file is a link or not regular, or lies outside the folder.
    """
    if relative.is_absolute() or ".." in relative.parts:
        raise HubError(f"{relative} lies outside {folder}: a push takes only what lies in the comparison's folder.")
    path = folder
    for part in relative.parts:
        path = path / part
        if path.is_symlink():
            raise HubError(f"{path} is a link, which a push does not follow: replace it with its target, or remove it.")
    if not stat.S_ISREG(path.stat().st_mode):
        raise HubError(f"{path} is not a regular file: remove it.")
    return path


def _copy_all(folder: Path, copy: Path, runs: Iterable[Path]) -> None:
    for run in runs:
        for name in RECORD_FILES:
            _copy(folder, copy, run / name)


def _copy(folder: Path, copy: Path, relative: Path) -> None:
    """Copies a file if it exists."""
    outside = relative.is_absolute() or ".." in relative.parts
    if not outside and not (folder / relative).exists() and not (folder / relative).is_symlink():
        return
    source, target = regular_file(folder, relative), copy / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
