"""Model cards that experiments write, with metadata in the Hub's format."""

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCardData

from hf_critmom.reporting.templates import render


@dataclass(frozen=True)
class CardResult:
    """A value on the test split, for the metadata of a card.

    Attributes:
        metric: Name of the metric.
        description: What the value is, such as "accuracy, critmom, mean of 5 seeds".
        value: The value; the card rounds it to six decimals.
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
        hub_task: The Hub's name of the task, such as "image-classification".
        dataset: Type of the dataset in the metadata: its identifier.
        source: Name of the dataset in the metadata: where it comes from.
        metric: Name of the metric.
        model_name: Name of the model.
        tags: Tags besides ``hf-critmom``.
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
    """Renders a template, which begins with the metadata as ``front_matter``."""
    return render(template, front_matter=data.to_yaml(), **context)
