"""Results of an attribution as dataclasses, and the file that holds them, which is read here alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_critmom.attribution.agreement import Agreement, measure_agreement
from hf_critmom.attribution.doubtful_labels import DoubtfulLabel
from hf_critmom.attribution.problems import check_same_groups
from hf_critmom.attribution.results import Attribution
from hf_critmom.errors import root_message
from hf_critmom.experiments.diagnosis.errors import DiagnosisError
from hf_critmom.experiments.diagnosis.plan import Settings, different_settings
from hf_critmom.experiments.diagnosis.study import Study
from hf_critmom.storage.environment import versions
from hf_critmom.storage.files import create_or_open_folder, write_json
from hf_critmom.storage.locks import locked
from hf_critmom.storage.plan import json_roundtrip
from hf_critmom.storage.typed import from_json, read_json
from hf_critmom.tasks.records import TaskRecord
from hf_critmom.training.history import read_entry

RESULTS_FILE = "attribution.json"
KIND = "attribution"


@dataclass(frozen=True)
class Result:
    """The result for one checkpoint.

    Attributes:
        label: See `CheckpointSpec`.
        arm: See `CheckpointSpec`.
        seed: See `CheckpointSpec`.
        sha256: Digest of its weights.
        parameters: Number of parameters.
        studies: One study for each severity of the corruption; one without a corruption.
        history: Entries that `AttributionCallback` kept during its training, if any.
        doubtful_labels: Misclassified examples with doubtful labels; None if they were not searched for.
        same_weights: Labels of checkpoints that have the same weights, which are not studied again.
        initial_seed: Seed of the untrained network; None without one, and in results of earlier versions, which took
            that of the run, or 0.
    """

    label: str
    arm: str | None
    seed: int | None
    sha256: str
    parameters: int
    studies: tuple[Study, ...]
    history: tuple[dict[str, Any], ...] = ()
    doubtful_labels: tuple[DoubtfulLabel, ...] | None = None
    same_weights: tuple[str, ...] = ()
    initial_seed: int | None = None

    def __post_init__(self) -> None:
        if not self.studies or self.parameters < 1:
            raise ValueError(f"{self.label!r} has no study")
        for entry in self.history:
            read_entry(entry)

    @property
    def epochs(self) -> list[tuple[float, Attribution]]:
        """Epoch and attribution of each entry of the history."""
        return [read_entry(entry) for entry in self.history]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        plain = {name: getattr(self, name) for name in ("label", "arm", "seed", "sha256", "parameters")}
        found: dict[str, Any] = {}
        if self.doubtful_labels is not None:
            found["doubtful_labels"] = [asdict(one) for one in self.doubtful_labels]
        if self.same_weights:
            found["same_weights"] = list(self.same_weights)
        if self.initial_seed is not None:
            found["initial_seed"] = self.initial_seed
        return {
            **plain,
            "studies": [study.to_dict() for study in self.studies],
            "history": list(self.history),
            **found,
        }


@dataclass(frozen=True)
class Results:
    """A stored attribution.

    Attributes:
        settings: The settings that reports show.
        all_settings: All settings, as JSON values.
        checkpoints: One result for each checkpoint.
        versions: Versions of the libraries, and the machine.
        command: The command line.
    """

    settings: Settings
    all_settings: dict[str, Any]
    checkpoints: tuple[Result, ...]
    versions: dict[str, str]
    command: str


@dataclass(frozen=True)
class _File:
    _NOT_READ = ("agreement",)

    settings: dict[str, Any]
    versions: dict[str, str]
    command: str
    checkpoints: tuple[Result, ...]

    def __post_init__(self) -> None:
        labels = [result.label for result in self.checkpoints]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError("its checkpoints have no labels, or the same")


def read_results(folder: Path) -> Results:
    """Reads a stored attribution.

    Raises:
        DiagnosisError: If there is none, or the file is damaged.
    """
    file = folder / RESULTS_FILE
    try:
        content = from_json(_File, read_json(file))
        settings = dict(content.settings)
        task = TaskRecord.from_description(settings.get("task"), "settings.task")
        shown = {
            name: settings[name] for name in ("split", "num_top_groups", "corruption", "dtype") if name in settings
        }
        known = from_json(_Shown, shown, "settings")
        reported = Settings(task, known.split, known.num_top_groups, known.corruption, known.dtype)
        check_same_groups({result.label: result.studies[0].attribution for result in content.checkpoints})
    except (FileNotFoundError, NotADirectoryError):
        raise DiagnosisError(f"{folder} holds no attribution: expected a folder with a {RESULTS_FILE}.") from None
    except (OSError, ValueError) as error:
        raise DiagnosisError(
            f"{file} is corrupt, or of another version ({root_message(error).rstrip('.')}): delete it, or choose "
            "another --output_dir."
        ) from None
    return Results(reported, settings, content.checkpoints, content.versions, content.command)


@dataclass(frozen=True)
class _Shown:
    split: str
    num_top_groups: int
    corruption: str | None = None
    dtype: str | None = None


def stored_results(folder: Path, settings: dict[str, Any], digests: dict[str, str]) -> dict[str, Result]:
    """The results in a folder, by label, if they were made with these settings and checkpoints.

    Args:
        folder: The folder.
        settings: The settings of this launch.
        digests: Digests of the weights of this launch's checkpoints, by label.

    Raises:
        DiagnosisError: If they were made with others, or the file is damaged.
    """
    if not (folder / RESULTS_FILE).exists():
        return {}
    stored = read_results(folder)
    different = different_settings(stored.all_settings, settings)
    different += [one.label for one in stored.checkpoints if digests.get(one.label) != one.sha256]
    if different:
        raise DiagnosisError(
            f"{folder} holds an attribution with other settings or checkpoints ({', '.join(different)}): repeat its "
            "command to continue it, or choose another --output_dir."
        )
    return {result.label: result for result in stored.checkpoints}


def store_result(folder: Path, settings: dict[str, Any], result: Result, command: str, order: Sequence[str]) -> None:
    """Adds the result of a checkpoint to those stored by this and other launches.

    Args:
        folder: The folder.
        settings: The settings of this launch.
        result: The result.
        command: The command line.
        order: Labels of this launch's checkpoints, in the order of tables.

    Raises:
        DiagnosisError: If another launch has meanwhile stored results with other settings.
    """
    with locked(folder, "plan"), locked(folder, "results"):
        # Again, because a launch of another experiment may have been faster.
        create_or_open_folder(folder, KIND, RESULTS_FILE, DiagnosisError, write=True)
        results = {}
        if (folder / RESULTS_FILE).exists():
            stored = read_results(folder)
            if different := different_settings(stored.all_settings, settings):
                raise DiagnosisError(
                    f"Another launch has meanwhile written to {folder} with other settings ({', '.join(different)}): "
                    "choose another --output_dir."
                )
            results = {one.label: one for one in stored.checkpoints}
        results[result.label] = result
        places = {label: place for place, label in enumerate(order)}
        ordered = sorted(results.values(), key=lambda one: places.get(one.label, len(places)))
        write_json(
            folder / RESULTS_FILE,
            {
                "settings": settings,
                "versions": versions(),
                "command": command,
                "checkpoints": [one.to_dict() for one in ordered],
                "agreement": _agreement_record(ordered, settings),
            },
        )


def restore_agreement(folder: Path) -> None:
    """Rewrites the stored agreement, which nothing is computed from, if it does not follow from the results."""
    read_results(folder)  # fails before a lock is created in a folder without an attribution
    with locked(folder, "results"):
        stored, content = read_results(folder), read_json(folder / RESULTS_FILE)
        agreement = _agreement_record(stored.checkpoints, stored.all_settings)
        if content.get("agreement") != json_roundtrip(agreement):
            write_json(folder / RESULTS_FILE, {**content, "agreement": agreement})


def _agreement_record(results: Sequence[Result], settings: Mapping[str, Any]) -> dict[str, Any]:
    found = agreements_of(results, settings["num_top_groups"])
    return {name: agreement.to_dict() for name, agreement in found.items()}


def agreements_of(results: Sequence[Result], num_top: int) -> dict[str, Agreement]:
    """Agreement of checkpoints on the chosen examples, and on each control that all of them have; empty for one."""
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
