"""From the request of a comparison in a script to its plan: facts from the dry run, flags of every run, targets."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison.arguments import DEFAULT_MARGIN
from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.experiments.comparison.planning import (
    EVALUATIONS_PER_EPOCH,
    MAX_EVALUATION_SHARE,
    check_names,
    plan_looks,
    plan_tuning,
    select_left_out,
    select_seeds,
)
from hf_critmom.experiments.comparison.records import TaskRecord
from hf_critmom.experiments.comparison.script.arguments import ScriptRequest
from hf_critmom.experiments.comparison.script.instructions import Recording
from hf_critmom.storage.recorded_commands import recorded_value
from hf_critmom.storage.typed import RecordError, from_json
from hf_critmom.training.arguments import differing_arguments

EVALUATIONS_PER_RUN = 12
"""Least number of evaluations of a run if no flag sets how often to evaluate."""
LOGS_PER_RUN = 100
_HUB_TASKS = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForImageClassification": "image-classification",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "SentenceTransformer": "sentence-similarity",
}
_DECIDED = ("optim", "optim_args", "output_dir", "seed", "data_seed", "run_name", "report_to", "max_steps_reached")
_SET_IN_DRY_RUN = ("eval_strategy", "eval_steps", "logging_strategy", "logging_steps", "save_strategy", "save_steps")


@dataclass(frozen=True)
class ScriptFacts:
    """Facts about a script, from its dry run or from a stored plan.

    Attributes:
        model: Class and sizes of the model.
        splits: Splits by name, as a plan stores them.
        hub_task: The Hub's name for this kind of task.
        training: Training arguments that differ from the defaults of Transformers.
        flags: Flags of evaluation, logging and saving that every run sets.
        steps: Number of optimizer steps of a run.
        versions: Versions of the libraries, and the hardware.
        notes: Sentences for readers of the results.
    """

    model: Mapping[str, Any]
    splits: Mapping[str, Any]
    hub_task: str
    training: Mapping[str, Any]
    flags: Mapping[str, Any]
    steps: int
    versions: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @classmethod
    def from_dry_run(cls, request: ScriptRequest, recording: Recording) -> "ScriptFacts":
        """The facts that a dry run shows.

        Raises:
            ComparisonError: See `cadence_flags`.
        """
        flags = cadence_flags(request, recording)
        own = {name: value for name, value in recording.training.items() if name not in (*_DECIDED, *_SET_IN_DRY_RUN)}
        given = {name: value for name in _SET_IN_DRY_RUN if (value := request.script.value(name)) is not None}
        training = {**differing_arguments(own, use_cpu=True), **recorded_value(given)}
        training |= {name: value for name, value in flags.items() if value is not None}
        batches = "-".join(digest[:16] for digest in recording.pairing["batches"])
        examples = {name: number for name, number in recording.examples.items() if number}
        sizes = {"num_parameters": recording.num_parameters, "num_trained_parameters": recording.num_trained_parameters}
        return cls(
            model={"model": recording.model, **sizes},
            splits={name: {"examples": number, "sha256": batches} for name, number in examples.items()},
            hub_task=next((task for part, task in _HUB_TASKS.items() if recording.model.endswith(part)), "other"),
            training=training,
            flags=flags,
            steps=recording.max_steps,
            versions=recording.versions,
        )

    @classmethod
    def from_plan(cls, plan: Plan) -> "ScriptFacts":
        """The facts in a stored plan."""
        content = plan.task.content
        return cls(
            model=plan.model,
            splits=content.get("splits", {}),
            hub_task=plan.task.hub_task,
            training=plan.training,
            flags=content.get("flags", {}),
            steps=int(content.get("steps", 0)),
            versions=plan.versions,
            notes=plan.task.notes,
        )


def cadence_flags(request: ScriptRequest, recording: Recording) -> dict[str, Any]:
    """Flags that set how often a run is evaluated, logged and saved, as far as the user's own flags do not.

    Raises:
        ComparisonError: If the user's flags turn evaluation off, or ``--evaluations_per_epoch`` is given for a training
            without epochs.
    """
    script, epochs = request.script, recording.steps_per_epoch
    flags: dict[str, Any] = {}
    if str(script.value("eval_strategy")) == "no":
        raise ComparisonError("--eval_strategy no leaves nothing to compare: use epoch or steps.")
    if request.flags.evaluations_per_epoch is not None:
        if epochs is None:
            raise ComparisonError(
                "--evaluations_per_epoch needs a training by epochs, and the script has --max_steps: give the script "
                "--eval_steps instead."
            )
        every = max(1, round(epochs / request.flags.evaluations_per_epoch))
        flags |= {"eval_strategy": "steps", "eval_steps": every}
    elif script.value("eval_strategy") is None and script.value("eval_steps") is None:
        wanted = 0.0 if epochs is None else EVALUATIONS_PER_EPOCH * recording.max_steps / epochs
        number = max(math.ceil(wanted), EVALUATIONS_PER_RUN)
        training = recording.max_steps * (recording.step_seconds or 0.0)
        if recording.evaluation_seconds and training:
            number = min(number, int(MAX_EVALUATION_SHARE * training / recording.evaluation_seconds))
        flags |= {"eval_strategy": "steps", "eval_steps": max(1, recording.max_steps // max(number, 3))}
    elif script.value("eval_strategy") is None:
        flags |= {"eval_strategy": "steps"}
    if script.value("logging_strategy") is None and script.value("logging_steps") is None:
        flags |= {"logging_strategy": "steps", "logging_steps": max(1, recording.max_steps // LOGS_PER_RUN)}
    best = str(script.value("load_best_model_at_end") or "false").lower() in ("true", "1", "yes")
    if script.value("save_strategy") is None and script.value("save_steps") is None:
        flags |= {"save_strategy": "no"}
        if best:  # the Trainer takes the best of the checkpoints
            names = {"eval_strategy": "save_strategy", "eval_steps": "save_steps"}
            flags |= {save: flags.get(name, script.value(name)) for name, save in names.items()}
    if flags.get("save_strategy") != "no" and script.value("save_total_limit") is None:
        flags |= {"save_total_limit": 1}
    return {name: value for name, value in flags.items() if value is not None}


def plan_script(
    request: ScriptRequest,
    facts: ScriptFacts,
    arms: Mapping[str, Arm],
    targets: tuple[float, ...],
    threads: int,
    stored: Plan | None,
) -> Plan:
    """The plan of a request; its extent may be smaller than the stored plan's.

    Args:
        request: The request.
        facts: Facts about the script.
        arms: The arms.
        targets: The targets.
        threads: Number of threads of each process.
        stored: The plan of the comparison that the request continues, if there is one.

    Raises:
        ComparisonError: If seeds, baseline or claims cannot be used, or the script's own training arguments.
    """
    comparison, script = request.comparison, request.script
    check_names(comparison, [*(stored.arms if stored is not None else ()), *arms], request.folder, stored)
    seeds = select_seeds(comparison, request.flags.seed, request.given, stored)
    task = {
        "name": script.name,
        "source": f"the dataset loaded by {script.title.removeprefix('-m ')}",
        "metric": request.metric,
        "greater_is_better": request.greater_is_better,
        "hub_task": facts.hub_task,
        "splits": dict(facts.splits),
        "notes": list(facts.notes),
        "script": script.record(),
        "flags": dict(facts.flags),
        "steps": facts.steps,
    }
    try:
        return Plan(
            task=from_json(TaskRecord, task),
            model=dict(facts.model),
            arms=arms,
            seeds=seeds,
            targets=tuple(sorted(set(map(float, targets)), reverse=not request.greater_is_better)),
            training=dict(facts.training),
            versions=dict(facts.versions),
            command=request.command,
            tuning=plan_tuning(comparison, seeds, stored),
            threads=threads,
            baseline=None if stored is not None else comparison.baseline or next(iter(arms)),
            margin=comparison.margin or (DEFAULT_MARGIN if stored is None else stored.margin),
            claims=tuple(comparison.claim or ()),
            looks=plan_looks(comparison, seeds),
            left_out=select_left_out(comparison, arms, request.flags.seed, request.given, stored),
        )
    except RecordError as error:
        raise ComparisonError(
            f"{script.title} trains with arguments that cannot be compared ({root_message(error)}): change them."
        ) from None
