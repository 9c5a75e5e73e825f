"""Cards of pushed repositories, and test results in the Hub's own format."""

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResultEntry, HfApi, ModelCard, SpaceCard, SpaceCardData

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.results import RESULT_FILE, RESULTS_FILE
from hf_critmom.hub.errors import HubError
from hf_critmom.hub.files import regular_file
from hf_critmom.hub.model_choice import ChosenRun
from hf_critmom.hub.repository import Repository, is_repo_id
from hf_critmom.reporting.templates import render
from hf_critmom.reporting.text import markdown_text

_MODEL_CLASSES = {
    "image-classification": "AutoModelForImageClassification",
    "text-generation": "AutoModelForCausalLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
}
"""Auto class that loads a repository's model, by its task on the Hub; scripts may have other tasks."""

_PROCESSOR_CLASSES = {
    "preprocessor_config.json": ("processor", "AutoImageProcessor"),
    "tokenizer_config.json": ("tokenizer", "AutoTokenizer"),
}
"""What prepares inputs for the model, and its Auto class, by the file that is there if the repository has one."""

_TRACKER_TAG = re.compile(r"^ *- +['\"]?(trackio(?::https://[\w./-]+)?)['\"]? *\r?$", re.MULTILINE)


def model_card(
    card: str,
    repository: Repository,
    run: RunResult | None,
    plan: Plan,
    why: str,
    *,
    files: Collection[str] = (),
    tags: Sequence[str] = (),
    space: Repository | None = None,
) -> str:
    """The report as the card of a model repository, which without a model does not promise one.

    Args:
        card: The report.
        repository: The repository.
        run: Result of the run whose model is pushed; None without a model.
        plan: The comparison's plan.
        why: Why this model was chosen, or why there is none.
        files: Names of the model's files.
        tags: Further tags.
        space: The Space that shows the report, to which the card links.
    """
    pushed = ModelCard(card)
    if run is None:
        for promise in ("library_name", "pipeline_tag"):
            pushed.data.pop(promise)
    if run is not None and has_foreign_weights(plan):
        pushed.data.pop("license")
        pushed.data["base_model"] = base_model(plan)
    pushed.data["tags"] = list(dict.fromkeys([*(pushed.data.get("tags") or []), *tags]))
    loaded = _loaded(str(pushed.data.get("pipeline_tag")), files)
    pushed.text = _with_section(
        pushed.text, "pushed_model.md", repository, run=run, metric=plan.task.metric, why=why, loaded=loaded
    )
    return with_space_link(str(pushed), space) if space else str(pushed)


def has_foreign_weights(plan: Plan) -> bool:
    """Whether the weights derive from others, whose license this program does not know, rather than from a seed."""
    return plan.task.is_script or "model_name_or_path" in plan.model


def base_model(plan: Plan) -> str | None:
    """The model on the Hub that was fine-tuned; None for one in a folder, or if none is known."""
    name = plan.model.get("model_name_or_path")
    return name if isinstance(name, str) and is_repo_id(name) and "checkpoint_sha256" not in plan.model else None


def dataset_card(card: str, repository: Repository, *, space: Repository | None = None) -> str:
    """The report as the card of a dataset repository, whose only configuration is the table of results."""
    report = ModelCard(card)
    data = DatasetCardData(
        license=report.data.get("license"),
        pretty_name=report.data.get("model_name"),
        tags=report.data.get("tags"),
        task_categories=[report.data.get("pipeline_tag")],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": RESULTS_FILE}]}],
    )
    text = f"---\n{data.to_yaml()}\n---\n{_with_section(report.text, 'pushed_dataset.md', repository)}"
    return with_space_link(text, space) if space else text


def space_card(plan: Plan, *, model: Repository | None = None) -> str:
    """The card of a static Space that shows a report.

    As documented (huggingface/hub-docs, docs/hub/spaces-config-reference.md): ``sdk: static`` needs no hardware,
    ``app_file`` is the page to serve, and ``short_description`` has at most 60 characters.

    Args:
        plan: The comparison's plan.
        model: The model repository of the same comparison.
    """
    name = plan.task.name
    arms = ", ".join(plan.arms)
    data = SpaceCardData(
        title=_shortened(f"{name}: {arms}", 100),
        sdk="static",
        app_file="index.html",
        license="apache-2.0",
        models=[model.repo_id] if model else None,
        tags=["hf-critmom", "optimizer-comparison", "momentum"],
        emoji="\N{CHART WITH UPWARDS TREND}",
        colorFrom="blue",
        colorTo="indigo",
        pinned=False,
        short_description=_shortened(f"Optimizers compared on {name}", 60),
    )
    text = render("pushed_space.md", title=markdown_text(f"{name}: {arms}"), model=model)
    return f"---\n{data.to_yaml()}\n---\n\n{text.strip()}\n"


def with_space_link(card: str, space: Repository) -> str:
    """The card with a link to the Space that shows its report; unchanged if it has one."""
    if f"]({space.url})" in card:
        return card
    return _before_first_section(card, f"Interactive report: [{space.repo_id}]({space.url}).")


def tracker_tags(folder: Path, runs: Iterable[Path]) -> list[str]:
    """Tags by which the Hub shows training metrics, from the cards that the Trainer and its trackers wrote.

    Trackio's callback adds ``trackio`` and ``trackio:URL``, and the Hub embeds that Space as "Training metrics".

    Args:
        folder: The comparison's folder.
        runs: Folders of its runs, the pushed one first.
    """
    tags: list[str] = []
    for card in (folder / "README.md", *(run / "README.md" for run in runs)):
        if not card.exists():
            continue
        try:
            text = regular_file(folder, card.relative_to(folder)).read_text(encoding="utf-8")
        except (HubError, UnicodeDecodeError):  # a card from another source has no such tags
            continue
        metadata = re.match(r"---\r?\n.*?\n---\s", text, re.DOTALL)
        tags += _TRACKER_TAG.findall(metadata[0]) if metadata else []
    return list(dict.fromkeys(tags))


def _loaded(hub_task: str, files: Collection[str]) -> dict[str, str]:
    """What a repository's files load as, with the Auto class of each; empty if no Auto class is known for the task."""
    if hub_task not in _MODEL_CLASSES:
        return {}
    found = [loaded for file, loaded in _PROCESSOR_CLASSES.items() if file in files]
    return {**dict(found), "model": _MODEL_CLASSES[hub_task]}


def _with_section(text: str, template: str, repository: Repository, **values: Any) -> str:
    """A card's text with a section from a template before its first section."""
    return _before_first_section(text, render(template, repository=repository, **values))


def _before_first_section(text: str, section: str) -> str:
    heading = re.search(r"^## ", text, re.MULTILINE)
    position = heading.start() if heading else len(text)
    return f"{text[:position]}{section.strip()}\n\n{text[position:]}"


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3].rstrip(' ,')}..."


def evaluation(
    chosen: ChosenRun, plan: Plan, folder: Path, repository: Repository, dataset_id: str | None, task_id: str
) -> tuple[str, EvalResultEntry]:
    """The chosen run's test result as an entry of ``.eval_results/*.yaml``, and that file's path.

    As documented (huggingface/hub-docs, docs/hub/eval-results.md; `huggingface_hub.EvalResultEntry`), each file is a
    list of entries. An entry needs ``dataset.id``, a dataset of the Hub that is registered as a benchmark,
    ``dataset.task_id``, a task of its ``eval.yaml``, and ``value``; ``source`` is where the value comes from, and
    ``date`` defaults to the commit's.

    Our choices for data that is not a benchmark: data from outside the Hub has its name in ``model-index``, and the
    task is "default", as in the documentation's example.
    """
    source, metric = plan.task.source, plan.task.metric
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


_CARDS = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}


def check_card(card: str, repository: Repository) -> None:
    """Reads a card back as huggingface_hub does, before anything is sent.

    Raises:
        HubError: If the card would not be valid.
    """
    try:
        _CARDS[repository.repo_type](card)
    except ValueError as error:
        raise HubError(
            f"The card would not be valid ({root_message(error)}): please report what was compared."
        ) from error
