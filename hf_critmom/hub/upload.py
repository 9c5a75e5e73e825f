"""Collects the files of a push."""

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison import ComparisonError, write_report
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.hub.cards import (
    check_card,
    dataset_card,
    evaluation,
    has_foreign_weights,
    model_card,
    space_card,
    tracker_tags,
)
from hf_critmom.hub.errors import HubError
from hf_critmom.hub.files import CARD_FILE, PAGE_FILE, copy_records, regular_file, report_files
from hf_critmom.hub.model_choice import choose_run, chosen_model_files, finished_runs
from hf_critmom.hub.privacy import check_message, publishable
from hf_critmom.hub.repository import REPO_TYPES, Repository, is_repo_id

INDEX_FILE = "index.html"
DEFAULT_TASK_ID = "default"


@dataclass(frozen=True)
class Upload:
    """The content of a push.

    Attributes:
        repository: The target.
        files: Contents, or the files that hold them, by path in the repository.
        message: Summary of the commit.
        notes: Sentences for the user who pushes.
    """

    repository: Repository
    files: dict[str, bytes | Path]
    message: str
    notes: list[str] = field(default_factory=list)

    def sizes(self) -> dict[str, int]:
        """Size of each file in bytes, by path in the repository."""
        return {
            path: len(content) if isinstance(content, bytes) else content.stat().st_size
            for path, content in self.files.items()
        }


@dataclass(frozen=True)
class PushOptions:
    """Options of a push, besides its target.

    Attributes:
        arm: Choose the model among this arm's runs.
        seed: Choose the model among this seed's runs.
        dataset_id: Dataset on the Hub to which the test result belongs; default: the comparison's.
        task_id: Task of that dataset's benchmark.
        message: Summary of the commit; default: the comparison's arms and task.
    """

    arm: str | None = None
    seed: int | None = None
    dataset_id: str | None = None
    task_id: str = DEFAULT_TASK_ID
    message: str | None = None

    def check(self, repository: Repository) -> None:
        """Refuses invalid values, and options that do not apply to the type of the repository.

        Raises:
            HubError: At the first such option.
        """
        if self.message is not None and not self.message.strip():
            raise HubError("--message is empty: say in a line what is pushed, or leave it out.")
        if not all(char.isalnum() or char in "._-" for char in self.task_id) or not self.task_id:
            raise HubError(
                f"--task_id {self.task_id!r} cannot name a benchmark task: write letters, digits, '-', '_' and '.', "
                f"or leave it out for {DEFAULT_TASK_ID!r}."
            )
        if self.dataset_id is not None and not is_repo_id(self.dataset_id):
            raise HubError(f"--dataset_id {self.dataset_id!r} cannot name a dataset of the Hub: write NAMESPACE/NAME.")
        if repository.repo_type == "model":
            return
        for flag in ("arm", "seed", "dataset_id", "task_id"):
            if getattr(self, flag) != getattr(PushOptions(), flag):
                kind = REPO_TYPES[repository.repo_type]
                raise HubError(f"--{flag} is about the model, and a {kind} repository has none: leave it out.")


def prepare_upload(
    folder: Path,
    repository: Repository,
    *,
    linked: Repository | None = None,
    known_secrets: Collection[str] = (),
    **options: Any,
) -> Upload:
    """Collects the files of a push, without network and without changing the comparison's folder.

    The report is rebuilt from plan and results, so it shows the current state of the comparison. A model
    repository also gets the model of one run at its top level, for ``from_pretrained``, and that run's test result in
    ``.eval_results/``; a dataset repository gets a card by which ``load_dataset`` reads the table of results; a Space
    gets the report's page.

    Args:
        folder: A comparison's folder, finished or not.
        repository: The target.
        linked: Repository that the card links to: the Space of a model or dataset, or the model of a Space.
        known_secrets: Secrets that must not be published, besides anything that looks like one.
        options: Fields of `PushOptions`.

    Raises:
        HubError: If the requested run does not exist or has no model, a file is a link or holds a secret, or the card
            is not valid.
        ComparisonError: If the folder holds no comparison, or no run of it has finished.
    """
    choices = PushOptions(**options)
    repository.check()
    choices.check(repository)
    with _readable(folder):
        comparison = _read_comparison(folder)
        files, notes = _CONTENTS[repository.repo_type](comparison, repository, choices, linked)
        files = publishable(dict(sorted(files.items())), known=known_secrets)
    card = files[CARD_FILE]
    assert isinstance(card, bytes)  # as every card is rendered
    check_card(card.decode(), repository)
    planned = len(comparison.plan.runs())
    # Tuned variants are added after their trials, and are not among the planned runs.
    finished = sum(result.arm in comparison.plan.arms for result in comparison.runs.values())
    if finished < planned:
        notes.insert(0, f"Unfinished: {finished} of {planned} runs; the card says so.")
    message = choices.message or (
        f"Comparison of {', '.join(comparison.plan.arms)} on {comparison.plan.task.name}, "
        f"{len(comparison.runs)} of {planned} runs"
    )
    check_message(message, known=known_secrets)
    return Upload(repository, files, message, notes)


@dataclass(frozen=True)
class _Comparison:
    """A comparison as it is published.

    Attributes:
        folder: Its folder.
        plan: Its plan.
        runs: Results of the finished runs, by folder.
        report: Files of the report and its records, by path in the repository.
    """

    folder: Path
    plan: Plan
    runs: dict[Path, RunResult]
    report: dict[str, bytes | Path]

    @property
    def card(self) -> str:
        """The report as Markdown."""
        card = self.report[CARD_FILE]
        assert isinstance(card, bytes)
        return card.decode()


def _read_comparison(folder: Path) -> _Comparison:
    """Copies a comparison's records, and rebuilds its report from them alone."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, folder.resolve().name)  # the report's commands name the folder
        copy.mkdir()
        try:
            copy_records(folder, copy)
            plan = Plan.read(copy)
            write_report(copy)
            runs = {folder / run.relative_to(copy): result for run, result in finished_runs(copy, plan).items()}
        except ComparisonError as error:
            raise ComparisonError(str(error).replace(str(copy), str(folder))) from None
        report: dict[str, bytes | Path] = {path.as_posix(): (copy / path).read_bytes() for path in report_files(copy)}
    if PAGE_FILE not in report and (folder / PAGE_FILE).exists():
        report[PAGE_FILE] = regular_file(folder, Path(PAGE_FILE)).read_bytes()
    return _Comparison(folder, plan, runs, report)


def _model_contents(
    comparison: _Comparison, repository: Repository, options: PushOptions, linked: Repository | None
) -> tuple[dict[str, bytes | Path], list[str]]:
    plan, runs = comparison.plan, comparison.runs
    chosen = choose_run(plan, runs, arm=options.arm, seed=options.seed)
    explicit = (options.arm, options.seed) != (None, None)
    model, why = chosen_model_files(chosen, runs, comparison.folder, explicit=explicit)
    notes = [f"{'Model' if model else 'No model'}: {why}."]
    files = {**comparison.report, **{file.name: file for file in model}}
    run = chosen.result if chosen and model else None
    tags = tracker_tags(comparison.folder, [*([chosen.folder] if chosen else []), *runs])
    names = [file.name for file in model]
    card = model_card(comparison.card, repository, run, plan, why, files=names, tags=tags, space=linked)
    if run is not None and has_foreign_weights(plan):
        notes.append("The card states no license, because the weights derive from others: add the one that applies.")
    if chosen is not None and chosen.result.ended_on != "test":
        notes.append("There is no test split, so no result is published in .eval_results/.")
    elif chosen is not None:
        path, entry = evaluation(chosen, plan, comparison.folder, repository, options.dataset_id, options.task_id)
        files[path] = yaml_dump(eval_result_entries_to_yaml([entry]), sort_keys=False).encode()
        if not is_repo_id(options.dataset_id or plan.task.source):
            notes.append(
                f"The data ({plan.task.source}) is not from the Hub: {path} calls it {entry.dataset_id!r}, "
                "which no leaderboard shows; if the Hub has it, name it with --dataset_id."
            )
    return {**files, CARD_FILE: card.encode()}, notes


def _dataset_contents(
    comparison: _Comparison, repository: Repository, options: PushOptions, linked: Repository | None
) -> tuple[dict[str, bytes | Path], list[str]]:
    card = dataset_card(comparison.card, repository, space=linked)
    return {**comparison.report, CARD_FILE: card.encode()}, []


def _space_contents(
    comparison: _Comparison, repository: Repository, options: PushOptions, linked: Repository | None
) -> tuple[dict[str, bytes | Path], list[str]]:
    if PAGE_FILE not in comparison.report:
        raise HubError(
            f"{comparison.folder} has no {PAGE_FILE}, which is what a Space shows: write it with hf-critmom report "
            f"{comparison.folder}, or push a model or dataset repository."
        )
    card = space_card(comparison.plan, model=linked)
    return {INDEX_FILE: comparison.report[PAGE_FILE], CARD_FILE: card.encode()}, []


_CONTENTS = {"model": _model_contents, "dataset": _dataset_contents, "space": _space_contents}
"""Functions that collect the files for each type of repository."""


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turns a failure to read a file into one sentence.

    Raises:
        HubError: If a file cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise HubError(
            f"{error.filename or folder} cannot be read ({error.strerror or root_message(error)}): make it readable, "
            "and repeat the command."
        ) from error
