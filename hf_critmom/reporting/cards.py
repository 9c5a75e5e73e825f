"""Metadata of the cards that experiments write, in the Hub's format."""

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCardData

from hf_critmom.reporting.templates import render


@dataclass(frozen=True)
class CardResult:
    """A value that a card reports in its metadata.

    Attributes:
        metric: Name of the metric.
        description: Subject of the value, such as "accuracy, critmom, mean of 5 seeds".
        value: The value; rounded to six digits.
    """

    metric: str
    description: str
    value: float


def card_metadata(
    *,
    hub_task: str,
    dataset: str,
    source: str,
    metric: str,
    model_name: str,
    tags: Sequence[str],
    results: Sequence[CardResult] = (),
) -> ModelCardData:
    """The metadata of a model card.

    Args:
        hub_task: The Hub's name for the task, such as "image-classification".
        dataset: Name of the dataset.
        source: Where the dataset comes from.
        metric: Name of the metric.
        model_name: Name of the card.
        tags: Tags, besides ``hf-critmom``.
        results: Values on the test split.
    """
    evaluated = [
        EvalResult(
            task_type=hub_task,
            dataset_type=dataset,
            dataset_name=source,
            dataset_split="test",
            metric_type=result.metric,
            metric_name=result.description,
            metric_value=round(result.value, 6),
        )
        for result in results
    ]
    return ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag=hub_task,
        tags=["hf-critmom", *tags],
        metrics=[metric],
        model_name=model_name,
        eval_results=evaluated or None,
    )


def render_card(template: str, data: ModelCardData, **context: object) -> str:
    """Renders a template that begins with the metadata as its ``front_matter``."""
    return render(template, front_matter=data.to_yaml(), **context)
