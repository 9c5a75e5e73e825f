"""Repair: scan, localize, diagnose, treat, verify, with the controls that tell a good diagnosis from luck."""

import copy
import gc
import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_critmom.attribution.attribution import Attribution, attribute_gradients, predict
from hf_critmom.attribution.errors import DiagnosisError
from hf_critmom.attribution.groups import Groups, LayerGroups, layer_groups
from hf_critmom.attribution.predictions import Predictions
from hf_critmom.attribution.problems import TOP, Diagnosis, diagnose
from hf_critmom.errors import root_message
from hf_critmom.experiments.repair.scan import EpochScan, scan
from hf_critmom.experiments.repair.treatment import only_trained, step_times, trained_share
from hf_critmom.experiments.repair.verification import Verification, changed_items, verify
from hf_critmom.optim.factory import named_optimizer
from hf_critmom.reporting.intervals import Interval, mean_interval
from hf_critmom.storage.checkpoints import last_whole_checkpoint, remove_checkpoints
from hf_critmom.storage.environment import versions
from hf_critmom.storage.files import create_or_open_folder, finite, write_json
from hf_critmom.storage.locks import try_lock
from hf_critmom.storage.plan import differences
from hf_critmom.training.arguments import recorded_training_arguments
from hf_critmom.training.trainer import CritMomTrainer

PLAN_FILE, DIAGNOSIS_FILE, RESULT_FILE = "repair.json", "diagnosis.json", "result.json"

SELECTIONS: dict[str, str] = {
    "gradient": "the problem groups of the gradients on misclassified examples; where there are none, the largest",
    "relative_norm": "the groups of the largest gradient relative to their parameters (Auto-RGN, arXiv 2210.11466)",
    "ikfad": "the groups in which a short run of iKFAD builds up most friction",
}
"""Ways to choose the groups to treat."""

CHOSEN = "chosen"
CONTROLS: dict[str, str] = {
    "random": "as many groups, drawn anew for each seed among all other choices",
    "last_layer": "the last group",
    "relative_norm": "as many groups, by the gradient relative to the parameters",
    "whole": "the whole network",
}
"""What a treatment of the chosen groups is compared with, at the same budget."""

IKFAD_STEPS = 100
"""Steps of the run from which ``ikfad`` chooses."""


@dataclass(frozen=True)
class Treatment:
    """One treated network.

    Attributes:
        groups: The groups that were trained.
        seed: Seed of the training.
        steps: Optimizer steps.
        seconds: Seconds of training.
        samples_per_second: Training examples per second.
        verification: What became of the test split.
        changed: Every test item that was fixed or broken.
    """

    groups: tuple[str, ...]
    seed: int
    steps: int
    seconds: float
    samples_per_second: float
    verification: Verification
    changed: tuple[dict[str, Any], ...] = ()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Treatment":
        """What a result file holds."""
        return cls(
            groups=tuple(content["groups"]),
            seed=content["seed"],
            steps=content["steps"],
            seconds=content["seconds"],
            samples_per_second=content["samples_per_second"],
            verification=Verification.from_dict(content["verification"]),
            changed=tuple(content["changed"]),
        )


@dataclass(frozen=True)
class Choice:
    """What was diagnosed, and what is therefore treated.

    Attributes:
        groups: The groups to treat.
        reason: Why these, in a sentence.
        attribution: Gradients on the misclassified examples of the diagnosis split.
        diagnosis: Which groups the rules name.
        friction: Mean friction of each group after a short run of iKFAD, where that chose.
    """

    groups: tuple[str, ...]
    reason: str
    attribution: Attribution
    diagnosis: Mapping[str, Any]
    friction: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a step of the treatment costs, measured beside a step of the whole network.

    Attributes:
        parameter_share: Share of the parameters that are trained; not a share of compute.
        seconds: Median seconds of a forward and backward pass with only the chosen groups trained.
        whole_seconds: The same with everything trained.
    """

    parameter_share: float
    seconds: float
    whole_seconds: float

    @property
    def time_share(self) -> float:
        """Time of the treatment's pass by that of the whole network's."""
        return self.seconds / self.whole_seconds


@dataclass(frozen=True)
class Repair:
    """A repair and its verification.

    Attributes:
        scan: Damping regime of each epoch of the training that made the network; empty where no log was given.
        choice: What was diagnosed.
        roles: Treatments by role, ``chosen`` and the names in `CONTROLS`, each over the seeds. Roles that come to the
            same groups share their treatments.
        cost: What the treatment costs.
        folder: Where everything is kept; the repaired model, treated with the first seed, is at its top.
    """

    scan: list[EpochScan]
    choice: Choice
    roles: dict[str, list[Treatment]]
    cost: Cost
    folder: Path

    @property
    def verification(self) -> Verification:
        """What became of the test split in the repaired model, which is the one treated with the first seed."""
        return self.roles[CHOSEN][0].verification

    def advantages(self) -> dict[str, Interval]:
        """How many more items the chosen groups' treatment fixed net than each control's, over paired seeds."""
        chosen = {treatment.seed: treatment.verification.net for treatment in self.roles[CHOSEN]}
        return {
            role: mean_interval(
                np.array([chosen[one.seed] - one.verification.net for one in treatments if one.seed in chosen], float)
            )
            for role, treatments in self.roles.items()
            if role != CHOSEN and {one.groups for one in treatments} != {self.choice.groups}
        }


@dataclass(frozen=True)
class RepairSettings:
    """What a repair is asked to do.

    Attributes:
        groups: "auto", or names of the groups to treat.
        select: How "auto" chooses, a name in `SELECTIONS`.
        num_groups: How many groups "auto" chooses; None: by the rule of `select`.
        layers: How parameters are grouped, see `layer_groups`.
        controls: Whether the controls are treated as well.
        num_seeds: Seeds of every treatment, from that of the training arguments on.
    """

    groups: str | Sequence[str] = "auto"
    select: str = "gradient"
    num_groups: int | None = None
    layers: Groups = None
    controls: bool = False
    num_seeds: int = 1

    def __post_init__(self) -> None:
        if self.select not in SELECTIONS:
            raise DiagnosisError(f"Unknown selection {self.select!r}: choose one of {', '.join(SELECTIONS)}.")
        if self.num_seeds < 1:
            raise DiagnosisError(f"num_seeds must be at least 1, got {self.num_seeds}.")
        if self.num_groups is not None and self.num_groups < 1:
            raise DiagnosisError(f"num_groups must be at least 1, got {self.num_groups}.")


def repair_layers(
    model: nn.Module,
    *,
    args: TrainingArguments,
    train_dataset: Any,
    diagnosis_dataset: Any,
    test_dataset: Any,
    settings: RepairSettings | None = None,
    data_collator: Callable[[Any], Any] | None = None,
    processing_class: Any = None,
    callbacks: Sequence[TrainerCallback] = (),
    log: Iterable[Mapping[str, Any]] = (),
    record: Mapping[str, Any] | None = None,
    command: str = "",
    progress: Callable[[str], None] = lambda message: None,
) -> Repair:
    """Finds the layer groups to blame for a network's errors, retrains only those, and verifies what that did.

    Scan classes the logged epochs by damping regime. Localize attributes gradients on the misclassified examples of
    the diagnosis split to layer groups. Diagnose chooses groups. Treat trains a copy of the model with everything else
    frozen, with critically damped momentum unless ``args.optim`` names another optimizer. Verify counts, on a test
    split that neither diagnosis nor treatment saw, what was fixed and what was broken. The model that is given is not
    changed.

    Everything is kept in ``args.output_dir``: repeating a call that was interrupted continues it.

    Args:
        model: A model that computes a loss, and logits of classes: any image classifier or causal language model.
        args: Of the treatment; also batch sizes, seed and folder.
        train_dataset: What the treatment trains on.
        diagnosis_dataset: Whose errors are diagnosed.
        test_dataset: What verifies.
        settings: What to do.
        data_collator: Turns examples into batches.
        processing_class: Saved with the repaired model.
        callbacks: Further callbacks of the treatments' training.
        log: Training log of the network, see `scan`.
        record: What else identifies the repair, such as the checkpoint and the fingerprints of the data.
        command: The command line, for the record.
        progress: Told, in a sentence each, how the work goes on.

    Raises:
        DiagnosisError: If there are no errors to repair, groups do not exist, splits overlap, the folder holds
            something else, or the model cannot be diagnosed.
    """
    asked = settings or RepairSettings()
    check_disjoint({"train": train_dataset, "diagnosis": diagnosis_dataset, "test": test_dataset})
    work = _Work(model, args, asked, data_collator, processing_class, callbacks, progress)
    work.train_dataset = train_dataset
    folder = Path(str(args.output_dir))
    plan = {
        "settings": {**asdict(asked), "groups": asked.groups if isinstance(asked.groups, str) else list(asked.groups)},
        "layers": {name: len(members) for name, members in work.layers.parameters.items()},
        "weights": _fingerprint(model),
        "seeds": work.seeds,
        "optimizer": {"optim": str(getattr(args.optim, "value", args.optim)), "optim_args": args.optim_args},
        "training": recorded_training_arguments(args),
        **(record or {}),
    }
    _settle(plan, folder, command)
    with try_lock(folder, "repair") as acquired:
        if not acquired:
            raise DiagnosisError(f"Another launch is repairing into {folder}: wait for it, or choose another folder.")
        choice, before = work.diagnosed(folder, diagnosis_dataset, test_dataset)
        progress(choice.reason)
        roles = {
            role: [
                work.treated(folder, groups, seed, before, test_dataset)
                for seed, groups in zip(work.seeds, of_seed, strict=True)
            ]
            for role, of_seed in work.roles(choice).items()
        }
        cost = work.cost(folder, choice.groups)
        if PartialState().is_main_process:
            work.publish(folder, choice.groups)
        PartialState().wait_for_everyone()
    return Repair(scan(log), choice, roles, cost, folder)


def check_disjoint(splits: Mapping[str, Any]) -> None:
    """Checks by content that splits share no example.

    Args:
        splits: Data sets by name; those that cannot tell the content of their examples (by a method ``content_keys``)
            are left to the caller.

    Raises:
        DiagnosisError: If two of them do.
    """
    keys = {name: set(split.content_keys()) for name, split in splits.items() if hasattr(split, "content_keys")}
    names = list(keys)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            if shared := len(keys[first] & keys[second]):
                raise DiagnosisError(
                    f"The {first} and {second} splits share {shared:,} example{'s' if shared > 1 else ''}: a repair is "
                    "verified on examples that neither diagnosis nor treatment saw, so give splits that do not overlap."
                )


class _Work:
    """The parts of a repair, each of which is kept when it is done."""

    train_dataset: Any

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        settings: RepairSettings,
        data_collator: Callable[[Any], Any] | None,
        processing_class: Any,
        callbacks: Sequence[TrainerCallback],
        progress: Callable[[str], None],
    ) -> None:
        self.model, self.args, self.settings = model, args, settings
        self.data_collator, self.processing_class = data_collator, processing_class
        self.callbacks, self.progress = callbacks, progress
        self._scratch = tempfile.TemporaryDirectory()
        self.scratch = Path(self._scratch.name)
        self.layers: LayerGroups = layer_groups(model, settings.layers)
        self.seeds = [args.seed + number for number in range(settings.num_seeds)]
        if settings.groups != "auto":
            self.layers.check([settings.groups] if isinstance(settings.groups, str) else settings.groups)
        if settings.num_groups is not None and settings.num_groups > len(self.layers.names):
            raise DiagnosisError(
                f"num_groups is {settings.num_groups}, but this model has {len(self.layers.names)} layer groups: "
                f"{', '.join(self.layers.names)}."
            )

    def trainer(self, model: nn.Module, args: TrainingArguments, **kwargs: Any) -> CritMomTrainer:
        trainer = CritMomTrainer(
            model=model,
            args=args,
            train_dataset=self.train_dataset,
            data_collator=self.data_collator,
            processing_class=self.processing_class,
            callbacks=list(self.callbacks),
            **kwargs,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    # ------------------------------------------------------------------------------------------------------ diagnosis

    def diagnosed(self, folder: Path, diagnosis_dataset: Any, test_dataset: Any) -> tuple[Choice, Predictions]:
        """The groups to treat, and the predictions before it; from the folder if they are there."""
        model = copy.deepcopy(self.model)
        trainer = self.trainer(model, self._run_arguments(self.scratch, self.args.seed))
        before = predict(model, trainer.get_eval_dataloader(test_dataset), accelerator=trainer.accelerator)
        file = folder / DIAGNOSIS_FILE
        if _told(file.exists()):
            stored = json.loads(file.read_text(encoding="utf-8"))
            attribution = Attribution.from_dict(stored["attribution"])
            return Choice(**{**stored, "groups": tuple(stored["groups"]), "attribution": attribution}), before
        loader = trainer.get_eval_dataloader(diagnosis_dataset)
        predictions = predict(model, loader, accelerator=trainer.accelerator)
        if not predictions.wrong.any():
            raise DiagnosisError(
                f"There are no errors to repair: all {int(predictions.counted.sum()):,} items of the diagnosis split "
                "are predicted correctly. Give a split with errors."
            )
        attribution = attribute_gradients(model, loader, groups=self.layers, accelerator=trainer.accelerator)
        correct = None
        matched = predictions.matched(self.args.seed)
        if matched.any():  # the classes of the errors may have no correctly classified example
            correct = attribute_gradients(
                model, loader, groups=self.layers, select=matched, accelerator=trainer.accelerator
            )
        num_top = min(self.settings.num_groups or TOP, len(attribution.groups))
        found = diagnose(attribution, correct=correct, num_top=num_top)
        friction = self._friction(folder) if self.settings.select == "ikfad" and self.settings.groups == "auto" else {}
        groups, why = self._choose(attribution, found, friction)
        choice = Choice(groups, why, attribution, found.to_dict(), friction)
        if PartialState().is_main_process:
            write_json(file, finite({**vars(choice), "attribution": attribution.to_dict(), "groups": list(groups)}))
        PartialState().wait_for_everyone()
        return choice, before

    def _choose(
        self, attribution: Attribution, found: Diagnosis, friction: Mapping[str, float]
    ) -> tuple[tuple[str, ...], str]:
        asked, number = self.settings.groups, self.settings.num_groups
        if asked != "auto":
            names = self.layers.check([asked] if isinstance(asked, str) else asked)
            return self._in_order(names), "The groups were named by the user."
        if self.settings.select == "relative_norm":
            names = tuple(attribution.ranked("relative_norm")[: number or TOP])
            return self._in_order(names), f"{_listed(names)} have the largest gradient relative to their parameters."
        if self.settings.select == "ikfad":
            ranked = sorted(friction, key=lambda name: -friction[name])[: number or TOP]
            why = f"{_listed(ranked)} built up most friction in {IKFAD_STEPS} steps of iKFAD."
            return self._in_order(ranked), why
        if number is None and found.problem:
            why = (
                f"{_listed(found.problem)}: more than an equal part of the gradient on misclassified examples, and "
                "beyond chance more than on correctly classified ones."
            )
            return self._in_order(found.problem), why
        why = f"{_listed(found.top)} have the largest shares of the gradient on misclassified examples"
        if found.same_groups.get("correct"):
            why += ", as they have on correctly classified ones"
        elif found.problem is not None and not found.problem:
            why += "; no group stands out from correctly classified ones beyond chance"
        return self._in_order(found.top), f"{why}."

    def _in_order(self, names: Iterable[str]) -> tuple[str, ...]:
        chosen = set(names)
        return tuple(name for name in self.layers.names if name in chosen)

    def _friction(self, folder: Path) -> dict[str, float]:
        """Mean friction of each group after a short run of iKFAD on the training data."""
        args = self._run_arguments(self.scratch, self.args.seed)
        args.max_steps, args.report_to = IKFAD_STEPS, []
        args.eval_strategy, args.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
        model = copy.deepcopy(self.model)
        optimizer = named_optimizer("ikfad", lr=args.learning_rate, options={})
        trainer = self.trainer(model, args, optimizer_cls_and_kwargs=optimizer)
        trainer.train()
        ikfad: Any = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        trained = {id(parameter) for group in ikfad.param_groups for parameter in group["params"]}
        members = {
            name: [parameter for parameter in parameters.values() if id(parameter) in trained]
            for name, parameters in self.layers.of(model).items()
        }
        return {name: ikfad.friction(parameters) for name, parameters in members.items() if parameters}

    # ------------------------------------------------------------------------------------------------------ treatment

    def roles(self, choice: Choice) -> dict[str, list[tuple[str, ...]]]:
        """The groups that each role treats, seed by seed."""
        found = {CHOSEN: [choice.groups] * len(self.seeds)}
        if not self.settings.controls:
            return found
        names = self.layers.names
        number = len(choice.groups)
        if number < len(names):
            found["random"] = [self._drawn(choice.groups, seed) for seed in self.seeds]
            by_norm = self._in_order(choice.attribution.ranked("relative_norm")[:number])
            found["relative_norm"] = [by_norm] * len(self.seeds)
        found["last_layer"] = [(names[-1],)] * len(self.seeds)
        found["whole"] = [names] * len(self.seeds)
        return found

    def _drawn(self, chosen: tuple[str, ...], seed: int) -> tuple[str, ...]:
        draw = random.Random(seed)
        while True:
            groups = self._in_order(draw.sample(self.layers.names, len(chosen)))
            if groups != chosen:
                return groups

    def treated(
        self, folder: Path, groups: tuple[str, ...], seed: int, before: Predictions, test_dataset: Any
    ) -> Treatment:
        """A copy of the model with some groups retrained, verified; from the folder if it is there."""
        run = folder / "runs" / _folder_name(groups) / f"seed-{seed}"
        if not _told((run / RESULT_FILE).exists()):
            self.progress(f"treating {_listed(groups)}, seed {seed}")
            model = copy.deepcopy(self.model)
            trainer = self.trainer(model, self._run_arguments(run, seed))
            with only_trained(model, self.layers, groups):
                trained = trainer.train(resume_from_checkpoint=last_whole_checkpoint(run))
            after = predict(model, trainer.get_eval_dataloader(test_dataset), accelerator=trainer.accelerator)
            result = {
                "groups": list(groups),
                "seed": seed,
                "steps": trainer.state.global_step,
                "seconds": trained.metrics["train_runtime"],
                "samples_per_second": trained.metrics["train_samples_per_second"],
                "verification": verify(before, after).to_dict(),
                "changed": changed_items(before, after),
                "training_log": [record for record in trainer.state.log_history if "loss" in record],
                "versions": versions(),
            }
            trainer.save_model()
            if PartialState().is_main_process:
                write_json(run / RESULT_FILE, finite(result))
                remove_checkpoints(run)
            PartialState().wait_for_everyone()
            del trainer, model
            gc.collect()
        treatment = Treatment.from_dict(json.loads((run / RESULT_FILE).read_text(encoding="utf-8")))
        told = treatment.verification
        self.progress(f"{_listed(groups)}, seed {seed}: fixed {told.fixed}, broken {told.broken}, net {told.net:+d}")
        return treatment

    def cost(self, folder: Path, groups: tuple[str, ...]) -> Cost:
        """What a step costs; measured once and kept."""
        file = folder / "cost.json"
        if not _told(file.exists()):
            model = copy.deepcopy(self.model)
            trainer = self.trainer(model, self._run_arguments(self.scratch, self.args.seed))
            batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
            seconds = step_times(model, self.layers, {CHOSEN: groups, "whole": self.layers.names}, batch)
            share = trained_share(self.layers, model, groups)
            if PartialState().is_main_process:
                write_json(file, asdict(Cost(share, seconds[CHOSEN], seconds["whole"])))
            PartialState().wait_for_everyone()
        return Cost(**json.loads(file.read_text(encoding="utf-8")))

    def publish(self, folder: Path, groups: tuple[str, ...]) -> None:
        """Puts the repaired model, treated with the first seed, at the top of the folder."""
        run = folder / "runs" / _folder_name(groups) / f"seed-{self.seeds[0]}"
        left_out = (RESULT_FILE, "README.md", "training_args.bin")
        for file in run.iterdir():
            if file.is_file() and file.name not in left_out:
                shutil.copyfile(file, folder / f".{file.name}.partial")
                (folder / f".{file.name}.partial").replace(folder / file.name)

    def _run_arguments(self, folder: Path, seed: int) -> TrainingArguments:
        args = copy.deepcopy(self.args)
        args.output_dir = str(folder)
        args.seed = args.data_seed = seed
        return args


def _settle(plan: dict[str, Any], folder: Path, command: str) -> None:
    """Stores the plan of a repair, or checks that the stored one is the same.

    Raises:
        DiagnosisError: If the folder holds a different repair or something else, or cannot be written.
    """
    file = folder / PLAN_FILE
    if file.exists():
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DiagnosisError(
                f"{file} is not the plan of a repair ({root_message(error)}): choose another --output_dir."
            ) from None
        decisive, current = (
            {name: value for name, value in content.items() if name not in ("versions", "command", "checkpoint")}
            for content in (stored, plan)  # the checkpoint is known by its weights, wherever it lies
        )
        if "dtype" in current:  # earlier versions did not record it, and the digest of the weights tells another one
            decisive.setdefault("dtype", current["dtype"])
        if different := differences("repair", decisive, current):
            raise DiagnosisError(
                f"{folder} holds a different repair ({'; '.join(different)}; stored first): repeat its command to "
                "continue it, or choose another --output_dir."
            )
        return
    create_or_open_folder(folder, "repair", PLAN_FILE, DiagnosisError, write=PartialState().is_main_process)
    if PartialState().is_main_process:
        write_json(file, {**plan, "versions": versions(), "command": command})
    PartialState().wait_for_everyone()


def _fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _folder_name(groups: tuple[str, ...]) -> str:
    name = "+".join(groups)
    if len(name) <= 80:
        return name
    return f"{len(groups)}-groups-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _told(value: bool) -> bool:
    return bool(broadcast_object_list([value])[0])


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "nothing"
