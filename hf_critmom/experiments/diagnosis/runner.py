"""Runs the ``attribute`` command: studies of checkpoints, each result written as soon as it is there."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, set_seed

from hf_critmom.attribution.agreement import Agreement, measure_agreement
from hf_critmom.attribution.errors import AttributionError
from hf_critmom.attribution.groups import layer_groups
from hf_critmom.experiments.diagnosis.arguments import AttributionArguments
from hf_critmom.experiments.diagnosis.errors import DiagnosisError
from hf_critmom.experiments.diagnosis.study import Study, make_study
from hf_critmom.storage.environment import versions
from hf_critmom.storage.files import create_or_open_folder, write_json
from hf_critmom.tasks import (
    CheckpointArguments,
    DataArguments,
    ImageTask,
    Task,
    corrupt,
    load_checkpoint,
    load_task_of,
    parse_corruption,
)
from hf_critmom.tasks.images import ImageDataset
from hf_critmom.training.history import read_history

RESULTS_FILE = "attribution.json"


@dataclass(frozen=True)
class Subject:
    """A checkpoint to be studied.

    Attributes:
        path: Its folder, or its name on the Hub.
        label: What it is called in tables; different for every checkpoint.
        arm: The arm of a comparison that it is a run of, if it is one.
        seed: That run's seed.
        train_sha256: Fingerprint of the training split that it was trained on, where that is known.
        trained_by: The command that trained it, to be quoted.
    """

    path: str
    label: str
    arm: str | None = None
    seed: int | None = None
    train_sha256: str | None = None
    trained_by: str = ""


@dataclass(frozen=True)
class AttributionRequest:
    """An attribution as the command line describes it."""

    subjects: Sequence[Subject]
    attribution: AttributionArguments
    data: DataArguments
    loading: CheckpointArguments = field(default_factory=CheckpointArguments)
    command: str = ""


@dataclass(frozen=True)
class Result:
    """What was found for one checkpoint.

    Attributes:
        label: See `Subject`.
        arm: See `Subject`.
        seed: See `Subject`.
        sha256: Of its weights.
        parameters: Number of its parameters.
        studies: One for each severity of the corruption; else one.
        history: What `AttributionCallback` kept of its training, if anything.
    """

    label: str
    arm: str | None
    seed: int | None
    sha256: str
    parameters: int
    studies: tuple[Study, ...]
    history: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        plain = {name: getattr(self, name) for name in ("label", "arm", "seed", "sha256", "parameters")}
        return {**plain, "studies": [study.to_dict() for study in self.studies], "history": list(self.history)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Result":
        """The inverse of `to_dict`."""
        studies = tuple(Study.from_dict(study) for study in content["studies"])
        return cls(**{**content, "studies": studies, "history": tuple(content["history"])})


def run_attribution(asked: AttributionRequest) -> Path:
    """Studies what is not yet studied of an attribution.

    Args:
        asked: The arguments.

    Returns:
        The folder with ``attribution.json``.

    Raises:
        DiagnosisError: If the arguments cannot be followed, or a checkpoint cannot be diagnosed; what was found for
            others by then is stored, and the same command goes on from there.
        TaskError: If the data or a checkpoint cannot be used.
    """
    args = asked.attribution
    accelerator = Accelerator(cpu=args.use_cpu or not torch.accelerator.is_available())
    corruption, severities = (None, (0,)) if args.corruption is None else parse_corruption(args.corruption)
    if len(severities) > 1:
        severities = (0, *severities)  # the clean images beside them
    task = load_task_of(asked.subjects[0].path, asked.data, asked.loading)
    task.split(args.split)
    if args.corruption is not None and not isinstance(task, ImageTask):
        raise DiagnosisError(f"--corruption {args.corruption} corrupts images, and {task.name} has none: leave it out.")
    digests = _check_checkpoints(asked, task)
    folder = Path(str(args.output_dir))
    settings = _settings(args, asked.loading, task)
    stored = _settle(folder, settings, digests, write=accelerator.is_main_process)
    accelerator.wait_for_everyone()
    results: list[Result] = []
    console = Console(stderr=True)
    shown = accelerator.is_main_process and console.is_terminal
    with Progress(console=console, disable=not shown, transient=True) as progress:
        steps = progress.add_task("", total=len(asked.subjects) * len(severities))
        for subject in asked.subjects:
            if subject.label in stored:
                results.append(stored[subject.label])
                progress.advance(steps, len(severities))
                continue
            model, own_task = load_checkpoint(subject.path, task, asked.loading)
            studies = []
            for severity in severities:
                progress.update(
                    steps, description=f"{subject.label}, severity {severity}" if severity else subject.label
                )
                try:
                    studies.append(_study(args, subject, model, own_task, accelerator, corruption, severity))
                except AttributionError as error:
                    at = f" at severity {severity}" if severity else ""
                    raise DiagnosisError(f"{subject.label}{at}: {error}") from None
                progress.advance(steps)
            results.append(
                Result(
                    subject.label,
                    subject.arm,
                    subject.seed,
                    digests[subject.label],
                    sum(parameter.numel() for parameter in model.parameters()),
                    tuple(studies),
                    _history(subject.path),
                )
            )
            if accelerator.is_main_process:
                _store(folder, settings, results, asked.command)
            accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _store(folder, settings, results, asked.command)
    accelerator.wait_for_everyone()
    return folder


def read_results(folder: Path) -> tuple[dict[str, Any], list[Result]]:
    """The settings, versions and command of an attribution, and its results.

    Raises:
        DiagnosisError: If there are none, or the file is corrupt.
    """
    file = folder / RESULTS_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return content, [Result.from_dict(result) for result in content["checkpoints"]]
    except (FileNotFoundError, NotADirectoryError):
        raise DiagnosisError(f"{folder} holds no attribution: expected a folder with a {RESULTS_FILE}.") from None
    except (KeyError, TypeError, ValueError):
        raise DiagnosisError(
            f"{file} is corrupt, or of another version: delete it, or choose another --output_dir."
        ) from None


def agreements_of(results: Sequence[Result], num_top: int) -> dict[str, Agreement]:
    """Agreement of several checkpoints, on the chosen examples and on every control that all of them have."""
    if len(results) < 2:
        return {}
    arms = {result.label: result.arm or "all" for result in results}
    found = {}
    for name in results[0].studies[0].attributions:
        made = {result.label: result.studies[0].attributions.get(name) for result in results}
        attributions = {label: attribution for label, attribution in made.items() if attribution is not None}
        if len(attributions) == len(results):
            found[name] = measure_agreement(attributions, arms, num_top=num_top)
    return found


def _check_checkpoints(asked: AttributionRequest, task: Task) -> dict[str, str]:
    """Loads every checkpoint once, before anything is computed; returns digests of their weights by label."""
    groups_of: dict[str, tuple[str, ...]] = {}
    digests = {}
    trained_on = task.description()["splits"]["train"]["sha256"]
    for subject in asked.subjects:
        if subject.train_sha256 not in (None, trained_on):
            raise DiagnosisError(
                f"{subject.label} was trained on other images than the training split of {task.name}, so the "
                f"{asked.attribution.split} split may hold some of those: give the data flags that it was trained with "
                f"({subject.trained_by})."
            )
        model, _ = load_checkpoint(subject.path, task, asked.loading)
        groups_of[subject.label] = layer_groups(model, asked.attribution.groups).names
        digests[subject.label] = _digest(model)
    first = next(iter(groups_of))
    for label, names in groups_of.items():
        if names != groups_of[first]:
            raise DiagnosisError(
                f"{first} and {label} have different layer groups ({', '.join(groups_of[first])} and "
                f"{', '.join(names)}): attribute models of one architecture together, others apart."
            )
    return digests


def _study(
    args: AttributionArguments,
    subject: Subject,
    model: PreTrainedModel,
    task: Task,
    accelerator: Accelerator,
    corruption: str | None,
    severity: int,
) -> Study:
    examples = task.split(args.split).evaluated()
    if corruption is not None and severity and isinstance(examples, ImageDataset):
        examples = examples.evaluated(corrupt(examples.images, corruption, severity, seed=args.seed))
    loader = DataLoader(examples, args.per_device_eval_batch_size, collate_fn=task.collator)
    initial = None
    if args.initial:
        set_seed(subject.seed or 0)
        initial = type(model)(model.config)

    def placed(some_model: PreTrainedModel) -> PreTrainedModel:
        return some_model.to(device=accelerator.device, memory_format=task.memory_format)

    return make_study(
        placed(model),
        accelerator.prepare_data_loader(loader),
        select=args.select,
        initial=None if initial is None else placed(initial),
        groups=args.groups,
        class_names=task.label_names if isinstance(task, ImageTask) else (),
        batch_size=args.gradient_batch_size,
        num_top=args.num_top_groups,
        seed=args.seed,
        accelerator=accelerator,
        corruption=corruption,
        severity=severity,
    )


def _settings(args: AttributionArguments, loading: CheckpointArguments, task: Task) -> dict[str, Any]:
    """What results depend on, as JSON."""
    chosen = asdict(args)
    for name in ("output_dir", "use_cpu", "per_device_eval_batch_size"):
        del chosen[name]
    return json.loads(json.dumps({"task": task.description(), "dtype": loading.dtype, **chosen}))


def _settle(folder: Path, settings: dict[str, Any], digests: dict[str, str], *, write: bool) -> dict[str, Result]:
    """The results by label that the folder holds already, if it was made with these settings and checkpoints."""
    if not (folder / RESULTS_FILE).exists():
        create_or_open_folder(folder, "attribution", RESULTS_FILE, DiagnosisError, write=write)
        return {}
    content, results = read_results(folder)
    content["settings"].setdefault("dtype", settings["dtype"])  # earlier versions kept the digests of the weights only
    different = [name for name in settings if content["settings"].get(name) != settings[name]]
    different += [result.label for result in results if digests.get(result.label) != result.sha256]
    if different:
        raise DiagnosisError(
            f"{folder} holds an attribution with other settings or checkpoints ({', '.join(different)}): repeat its "
            "command to continue it, or choose another --output_dir."
        )
    return {result.label: result for result in results}


def _store(folder: Path, settings: dict[str, Any], results: list[Result], command: str) -> None:
    agreements = agreements_of(results, settings["num_top_groups"])
    write_json(
        folder / RESULTS_FILE,
        {
            "settings": settings,
            "versions": versions(),
            "command": command,
            "checkpoints": [result.to_dict() for result in results],
            "agreement": {name: agreement.to_dict() for name, agreement in agreements.items()},
        },
    )


def _digest(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, values in model.state_dict().items():
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _history(path: str) -> tuple[dict[str, Any], ...]:
    """What `AttributionCallback` kept while a checkpoint was trained: in its folder, or the one of its run."""
    for folder in (Path(path), Path(path).parent if Path(path).name.startswith("checkpoint-") else Path(path)):
        if found := read_history(folder):
            return tuple(entry for entry in found if entry["prefix"] == "eval")
    return ()
