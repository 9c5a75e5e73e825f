"""What a push of a comparison brings."""

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

from hf_critmom.experiments.comparison import ComparisonError, write_report
from hf_critmom.experiments.comparison.plan import PLAN_FILE, Plan
from hf_critmom.experiments.comparison.results import RESULT_FILE
from hf_critmom.hub.cards import check_card, dataset_card, evaluation, model_card
from hf_critmom.hub.choice import choose_run, finished_runs, model_of
from hf_critmom.hub.refusals import HubError
from hf_critmom.hub.repository import Repository, is_repo_id

CARD_FILE = "README.md"


@dataclass(frozen=True)
class Upload:
    """What a push brings.

    Attributes:
        repository: Where it goes.
        files: Contents, or the files that hold them, by path in the repository.
        message: Summary of the commit.
        notes: Sentences that whoever pushes should read.
    """

    repository: Repository
    files: dict[str, bytes | Path]
    message: str
    notes: list[str] = field(default_factory=list)

    def sizes(self) -> dict[str, int]:
        """Bytes of every file by path in the repository."""
        return {
            path: len(content) if isinstance(content, bytes) else content.stat().st_size
            for path, content in self.files.items()
        }


def prepare_upload(
    folder: Path,
    repository: Repository,
    *,
    arm: str | None = None,
    seed: int | None = None,
    dataset_id: str | None = None,
    task_id: str = "default",
    message: str | None = None,
) -> Upload:
    """Collects what a push of a comparison brings; needs no network and leaves the comparison's folder as it is.

    The report is built anew from plan and results, so it says how far the comparison is at this moment. A model
    repository also gets the model of one run at its top level, for ``from_pretrained``, and that run's test result in
    ``.eval_results/``; a data set repository gets a card by which ``load_dataset`` reads the table of results.

    Args:
        folder: A comparison's folder, finished or not.
        repository: Where it is to go.
        arm: Choose the model among this arm's runs.
        seed: Choose the model among this seed's runs.
        dataset_id: Data set of the Hub that the test result is on; default: the one that was compared on.
        task_id: Its task there.
        message: Summary of the commit; default: what was compared.

    Raises:
        HubError: If the run asked for does not exist or has no model, or the card is not valid.
        ComparisonError: If the folder holds no comparison, or no run of it has finished.
    """
    plan = Plan.read(folder)
    runs, asked = finished_runs(folder, plan), len(plan.runs())
    if not runs:
        raise ComparisonError(f"No run of the comparison in {folder} has finished: repeat its command, {plan.command}.")
    report, notes = _report(folder), []
    files: dict[str, bytes | Path] = dict(report)
    finished = sum(result.arm in plan.arms for result in runs.values())  # tuned variants come after their trials
    if finished < asked:
        notes.append(f"Unfinished: {finished} of {asked} runs; the card says so.")
    if repository.repo_type == "dataset":
        for flag, value in (("arm", arm), ("seed", seed), ("dataset_id", dataset_id)):
            if value is not None:
                raise HubError(f"--{flag} is about the model, and a data set repository gets none: leave it out.")
        card = dataset_card(report[CARD_FILE].decode(), repository)
    else:
        chosen = choose_run(plan, runs, arm=arm, seed=seed)
        model, why = model_of(chosen, runs, explicit=(arm, seed) != (None, None))
        files |= {file.name: file for file in model}
        notes.append(f"{'Model' if model else 'No model'}: {why}.")
        run = chosen.result if chosen and model else None
        card = model_card(report[CARD_FILE].decode(), repository, run, plan.task.metric, why)
        if chosen is not None:
            path, entry = evaluation(chosen, plan, folder, repository, dataset_id, task_id)
            files[path] = yaml_dump(eval_result_entries_to_yaml([entry]), sort_keys=False).encode()
            if not is_repo_id(dataset_id or plan.task.source):
                notes.append(
                    f"The data ({plan.task.source}) is not from the Hub: {path} calls it {entry.dataset_id!r}, "
                    "which no leaderboard shows; if the Hub has it, name it with --dataset_id."
                )
    check_card(card, repository)
    files[CARD_FILE] = card.encode()
    summary = f"Comparison of {', '.join(plan.arms)} on {plan.task.name}, {len(runs)} of {asked} runs"
    return Upload(repository, dict(sorted(files.items())), message or summary, notes)


def _report(folder: Path) -> dict[str, bytes]:
    """Plan, results and the report made of them, by path."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary)
        for file in (folder / PLAN_FILE, *folder.glob(f"runs/**/{RESULT_FILE}")):
            target = copy / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        try:
            write_report(copy)
        except ComparisonError as error:
            raise ComparisonError(str(error).replace(str(copy), str(folder))) from None
        paths = [file.relative_to(copy) for file in copy.rglob("*") if file.is_file()]
        shown = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
        return {path.as_posix(): (copy / path).read_bytes() for path in shown}
