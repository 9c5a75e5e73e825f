"""The cards of what is pushed, and test results in the Hub's own format."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResultEntry, HfApi, ModelCard

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.results import RESULT_FILE, RESULTS_FILE
from hf_critmom.hub.choice import ChosenRun
from hf_critmom.hub.refusals import HubError
from hf_critmom.hub.repository import Repository, is_repo_id
from hf_critmom.reporting.templates import render

_LOADED = {
    "image-classification": {"processor": "AutoImageProcessor", "model": "AutoModelForImageClassification"},
    "text-generation": {"tokenizer": "AutoTokenizer", "model": "AutoModelForCausalLM"},
}
"""What a repository's model is loaded with, by its task on the Hub."""


def model_card(card: str, repository: Repository, run: RunResult | None, metric: str, why: str) -> str:
    """The report as the card of a model repository; without a model it promises none."""
    pushed = ModelCard(card)
    if run is None:
        for promise in ("library_name", "pipeline_tag"):
            pushed.data.pop(promise)
    loaded = _LOADED.get(str(pushed.data.get("pipeline_tag")))
    pushed.text = _with_section(
        pushed.text, "pushed_model.md", repository, run=run, metric=metric, why=why, loaded=loaded
    )
    return str(pushed)


def dataset_card(card: str, repository: Repository) -> str:
    """The report as the card of a data set repository, whose only configuration is the table of results."""
    report = ModelCard(card)
    data = DatasetCardData(
        license=report.data.get("license"),
        pretty_name=report.data.get("model_name"),
        tags=report.data.get("tags"),
        task_categories=[report.data.get("pipeline_tag")],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": RESULTS_FILE}]}],
    )
    return f"---\n{data.to_yaml()}\n---\n{_with_section(report.text, 'pushed_dataset.md', repository)}"


def _with_section(text: str, template: str, repository: Repository, **values: Any) -> str:
    """A card's text with a section from a template before its first one."""
    section = render(template, repository=repository, **values)
    heading = re.search(r"^## ", text, re.MULTILINE)
    position = heading.start() if heading else len(text)
    return f"{text[:position]}{section.strip()}\n\n{text[position:]}"


def evaluation(
    chosen: ChosenRun, plan: Plan, folder: Path, repository: Repository, dataset_id: str | None, task_id: str
) -> tuple[str, EvalResultEntry]:
    """The chosen run's test result as an entry of ``.eval_results/*.yaml``, and that file's path.

    Documented (huggingface/hub-docs, docs/hub/eval-results.md; `huggingface_hub.EvalResultEntry`): each file is a list
    of entries. An entry needs ``dataset.id``, a data set of the Hub that is registered as a benchmark,
    ``dataset.task_id``, a task of its ``eval.yaml``, and ``value``; ``source`` is where the value comes from, and
    ``date`` defaults to the commit's.

    Our choices, for data that is no benchmark: data from outside the Hub goes by the name that ``model-index`` gives
    it, and the task is "default", as in the documentation's example.
    """
    source, metric = plan.task.source, plan.task.metric
    if dataset_id is not None and not is_repo_id(dataset_id):
        raise HubError(f"--dataset_id {dataset_id!r} names no data set of the Hub: write it as NAMESPACE/NAME.")
    record = (chosen.folder.relative_to(folder) / RESULT_FILE).as_posix()
    entry = EvalResultEntry(
        dataset_id=dataset_id or (source if is_repo_id(source) else plan.task.name),
        task_id=task_id,
        value=chosen.result.test[metric],
        source_url=f"{HfApi().endpoint}/{repository.repo_id}/blob/{repository.revision or 'main'}/{record}",
        source_name="Record of the run",
        notes=f"{metric} on the test split of {source}; {chosen}, {chosen.reason}",
    )
    return f".eval_results/{re.sub('[^A-Za-z0-9._-]+', '-', plan.task.name)}.yaml", entry


def check_card(card: str, repository: Repository) -> None:
    """Reads a card back as huggingface_hub does, before anything is sent."""
    try:
        (DatasetCard if repository.repo_type == "dataset" else ModelCard)(card)
    except ValueError as error:
        raise HubError(
            f"The card would not be valid ({root_message(error)}): please report what was compared."
        ) from error
