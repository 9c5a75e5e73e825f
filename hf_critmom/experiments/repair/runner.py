"""Runs a repair: scan, localize, diagnose, treat, verify, with the controls that tell a good diagnosis from luck."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from hf_critmom.attribution.groups import LayerGroups, layer_groups
from hf_critmom.experiments.repair.diagnosis import diagnose_network, find_labels
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.plan import RepairPlan, RepairSettings, store_plan, stored_threads
from hf_critmom.experiments.repair.results import (
    COST_FILE,
    DIAGNOSIS_FILE,
    LABELS_FILE,
    MASKS_FILE,
    Choice,
    Repair,
    Treatment,
    read_choice,
    read_cost,
    read_labels,
    read_masks,
    read_treatment,
    write_choice,
    write_masks,
    write_record,
)
from hf_critmom.experiments.repair.scan import scan
from hf_critmom.experiments.repair.selection import CHOSEN, CONTROLS
from hf_critmom.experiments.repair.targets import Target, num_parameters, targets_by_role
from hf_critmom.experiments.repair.training import Network, choose_masks, measure_cost, train_and_verify
from hf_critmom.storage.digest import weights_digest
from hf_critmom.storage.environment import versions
from hf_critmom.storage.files import atomic_write, explain_write_errors
from hf_critmom.storage.once import compute_once
from hf_critmom.storage.run_folder import RunFolder, run_all
from hf_critmom.storage.threads import computing_with, settle_threads
from hf_critmom.storage.workers import Send, check_workers, run_in_workers, settle_workers
from hf_critmom.tasks.provenance import check_disjoint
from hf_critmom.tasks.splits import Split
from hf_critmom.training.arguments import recorded_training_arguments


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
    workers: int | None = 1,
    threads: int | None = None,
    measure_threads: bool = False,
) -> Repair:
    """Finds the layer groups to blame for a network's errors, retrains only those, and verifies what that did.

    Scan classes the logged epochs by damping regime. Localize attributes gradients on the misclassified examples of
    the diagnosis split to layer groups. Diagnose chooses groups. Treat trains a copy of the model with everything else
    frozen, with critically damped momentum unless ``args.optim`` names another optimizer. Verify counts, on a test
    split that neither diagnosis nor treatment saw, what was fixed and what was broken. The model that is given is not
    changed.

    Everything is kept in ``args.output_dir``: repeating a call that was interrupted continues it, more seeds or
    controls extend it, and several launches divide the treatments among themselves.

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
        progress: Called with a sentence on each step of the work.
        workers: Processes that make treatments at the same time, forked from this one, which must not have computed
            with several threads before; None: as many as there are cores for. Results do not depend on it.
        threads: Threads that each treatment computes with; None: as those of the repair in the folder, else of this
            process.
        measure_threads: Whether a new repair's number of threads is measured instead, see `choose_threads`.

    Raises:
        RepairError: If there are no errors to repair, groups do not exist, the Trainer refuses the arguments, or the
            folder holds something else, is damaged, or cannot be written.
        AttributionError: If the model's gradients cannot be attributed.
        TaskError: If the splits overlap.
    """
    request = settings or RepairSettings()
    overlap = check_disjoint({"train": train_dataset, "diagnosis": diagnosis_dataset, "test": test_dataset})
    layers = _checked_layers(model, request)
    network = Network(model, layers, args, train_dataset, data_collator, processing_class, tuple(callbacks))
    network.try_trainer(test_dataset)
    folder, process = Path(str(args.output_dir)), PartialState()
    measure = (lambda: measure_cost(network, network.layers.names, steps=2).whole_seconds) if measure_threads else None
    threads = settle_threads(stored_threads(folder), threads, measure, folder=folder, kind="repair", error=RepairError)
    roles = 1 + (len(CONTROLS) if request.controls else 0) + (request.granularity == "parameter")
    workers = settle_workers(workers, threads, roles * request.num_seeds)
    check_workers(workers, threads)
    plan = {
        "settings": request.record(),
        "layers": {name: len(members) for name, members in layers.parameters.items()},
        "weights": weights_digest(model),
        "seeds": [args.seed + number for number in range(request.num_seeds)],
        "optimizer": {"optim": str(getattr(args.optim, "value", args.optim)), "optim_args": args.optim_args},
        "training": recorded_training_arguments(args),
        "overlap": {"compared": overlap.compared, "unknown": overlap.unknown, "shared": overlap.shared},
        "scan": [vars(epoch) for epoch in scan(log)],
        **(record or {}),
        "versions": versions(),
        "threads": threads,
        "command": command,
    }
    kept = "what is finished stays, and is not repeated"
    with explain_write_errors(folder, RepairError, kept):
        store_plan(plan, folder, _legacy_digest(model), write=process.is_main_process)
    process.wait_for_everyone()
    with explain_write_errors(folder, RepairError, kept):
        runner = RepairRunner(network, RepairPlan.read(folder), request, folder, test_dataset, progress)
        if workers > 1:
            runner.run_apart(diagnosis_dataset, workers, threads)
        with computing_with(threads if workers == 1 else torch.get_num_threads()):
            return runner.run(diagnosis_dataset)


class RepairRunner:
    """The parts of a repair, each of which is stored when it is done.

    Args:
        network: What is repaired, and how it is trained.
        plan: The plan that governs the folder.
        request: The settings of this launch.
        folder: The repair's folder.
        test_dataset: What verifies.
        progress: Called with a sentence on each step of the work.
    """

    def __init__(
        self,
        network: Network,
        plan: RepairPlan,
        request: RepairSettings,
        folder: Path,
        test_dataset: Any,
        progress: Callable[[str], None],
    ) -> None:
        self.network, self.plan, self.request, self.folder = network, plan, request, folder
        self.test_dataset, self.progress = test_dataset, progress
        self.process = PartialState()

    def run_apart(self, diagnosis_dataset: Any, workers: int, threads: int) -> None:
        """Makes what is not yet made of the repair in workers, each as a launch of its own; `run` then reads it.

        Args:
            diagnosis_dataset: Whose errors are diagnosed.
            workers: Number of workers.
            threads: Threads of each.
        """
        said: set[str] = set()
        shown = self.progress

        def handle(worker: int, kind: str, *content: Any) -> None:
            if content[0] not in said:  # each worker tells what all of them have made
                said.add(content[0])
                shown(content[0])

        def work(send: Send) -> None:
            for dataset in (self.network.train_dataset, diagnosis_dataset, self.test_dataset):
                if isinstance(dataset, Split):
                    dataset.isolate()
            self.progress = lambda message: send("progress", message)
            self._make(diagnosis_dataset)

        def died(worker: int, signal_number: int) -> None:
            shown(f"A worker was killed (signal {signal_number}): the others make its treatment.")

        run_in_workers(work, workers=workers, threads=threads, handle=handle, died=died)
        self.progress = lambda message: None

    def run(self, diagnosis_dataset: Any) -> Repair:
        """Makes what is not yet made of the repair."""
        repair = self._make(diagnosis_dataset)
        chosen = repair.roles[CHOSEN][0]
        if self.process.is_main_process and not chosen.diverged:
            target = targets_by_role(self.plan, repair.choice)[CHOSEN][0]
            self._publish(self.folder / target.run_folder(self.plan.seeds[0]), chosen)
        self.process.wait_for_everyone()
        return repair

    def _make(self, diagnosis_dataset: Any) -> Repair:
        """Makes and reads every part."""
        settings = self.plan.settings
        choice = compute_once(
            self.folder / DIAGNOSIS_FILE,
            compute=lambda: diagnose_network(self.network, self.request, diagnosis_dataset),
            write=lambda found: write_choice(self.folder, found),
            read=lambda: read_choice(self.folder, self.plan),
        )
        self.progress(choice.reason)
        labels = None
        if settings.get("check_labels"):
            labels = compute_once(
                self.folder / LABELS_FILE,
                compute=lambda: find_labels(self.network, diagnosis_dataset, self.plan.diagnosis_split or "diagnosis"),
                write=lambda found: write_record(self.folder / LABELS_FILE, found),
                read=lambda: read_labels(self.folder),
            )
        masks = None
        if settings.get("granularity") == "parameter":
            masks = self._masks(choice, diagnosis_dataset)
        roles = targets_by_role(self.plan, choice)
        self._check_stored(roles)
        treatments = self._treat(roles, masks)
        cost = compute_once(
            self.folder / COST_FILE,
            compute=lambda: measure_cost(self.network, choice.groups),
            write=lambda found: write_record(self.folder / COST_FILE, found),
            read=lambda: read_cost(self.folder),
        )
        by_role = {
            role: [treatments[target, seed] for target, seed in zip(targets, self.plan.seeds, strict=True)]
            for role, targets in roles.items()
        }
        return Repair(list(self.plan.scan or ()), choice, by_role, cost, self.folder, self.plan, labels)

    def _check_stored(self, roles: Mapping[str, list[Target]]) -> None:
        """Reads what is there already: a damaged file is better known now than after hours of training."""
        for targets in roles.values():
            for target, seed in zip(targets, self.plan.seeds, strict=True):
                run = RunFolder(self.folder / target.run_folder(seed))
                if run.finished():
                    read_treatment(run.path, target, seed)
        if (self.folder / COST_FILE).exists():
            read_cost(self.folder)

    def _masks(self, choice: Choice, diagnosis_dataset: Any) -> dict[str, torch.Tensor]:
        """Which single parameters are trained: as many as the chosen groups have."""
        shapes, count = self.network.trainable_shapes(), num_parameters(choice)
        return compute_once(
            self.folder / MASKS_FILE,
            compute=lambda: choose_masks(self.network, diagnosis_dataset, count),
            write=lambda found: write_masks(self.folder, found),
            read=lambda: read_masks(self.folder, shapes, count),
        )

    def _treat(
        self, roles: Mapping[str, list[Target]], masks: Mapping[str, torch.Tensor] | None
    ) -> dict[tuple[Target, int], Treatment]:
        """Every treatment that a role has, each made once."""
        seeds = self.plan.seeds
        wanted = dict.fromkeys(pair for targets in roles.values() for pair in zip(targets, seeds, strict=True))
        found: dict[tuple[Target, int], Treatment] = {}

        def execute(run: tuple[Target, int], run_folder: RunFolder) -> None:
            target, seed = run
            self.progress(f"treating {target.title}, seed {seed}")
            chosen = masks if target.parameters is not None else None
            result = train_and_verify(self.network, target, chosen, seed, run_folder, self.test_dataset)
            if self.process.is_main_process:
                run_folder.finish(result)
            self.process.wait_for_everyone()

        def finished(run: tuple[Target, int], run_folder: RunFolder, earlier: bool) -> None:
            target, seed = run
            treatment = read_treatment(run_folder.path, target, seed)
            found[run] = treatment
            ended = "diverged"
            if (counts := treatment.verification) is not None:
                ended = f"fixed {counts.fixed}, broken {counts.broken}, net {counts.net:+d}"
            self.progress(f"{target.title}, seed {seed}: {ended}")

        run_all(
            self.folder,
            wanted,
            path=lambda run: run[0].run_folder(run[1]),
            execute=execute,
            finished=finished,
            waiting=lambda number: self.progress(f"another launch is making the last {number} treatments"),
        )
        return found

    def _publish(self, run: Path, treatment: Treatment) -> None:
        """Puts the repaired model, treated with the first seed, at the top of the folder."""
        names = treatment.files or {file.name: "" for file in run.iterdir() if _belongs_to_model(file)}
        for name, sha256 in names.items():
            file = run / name
            if Path(name).name != name or file.is_symlink() or not file.is_file():
                raise _damaged_model(run, f"{name} is missing")
            content = file.read_bytes()
            if sha256 and hashlib.sha256(content).hexdigest() != sha256:
                raise _damaged_model(run, f"{name} is not what the treatment wrote")
            with atomic_write(self.folder / name) as partial:
                partial.write_bytes(content)


def _belongs_to_model(file: Path) -> bool:
    """Whether a file of a run that an earlier version made is one of its model's."""
    ours = ("result.json", "README.md", "training_args.bin")
    return file.is_file() and not file.is_symlink() and not file.name.startswith(".") and file.name not in ours


def _damaged_model(run: Path, why: str) -> RepairError:
    return RepairError(
        f"The repaired model in {run} is damaged ({why}): delete {run / 'result.json'} and repeat the command, which "
        "makes the treatment again."
    )


def _checked_layers(model: nn.Module, settings: RepairSettings) -> LayerGroups:
    """The layer groups of a model, if the settings name groups that it has."""
    layers = layer_groups(model, settings.layers)
    if settings.groups != "auto":
        layers.check([settings.groups] if isinstance(settings.groups, str) else settings.groups)
    if settings.num_groups is not None and settings.num_groups > len(layers.names):
        raise RepairError(
            f"num_groups is {settings.num_groups}, but this model has {len(layers.names)} layer groups: "
            f"{', '.join(layers.names)}."
        )
    return layers


def _legacy_digest(model: nn.Module) -> str:
    """The digest of the weights that earlier versions stored in plans, which their folders are recognised by."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
