"""Runs a repair: scan, localize, diagnose, treat, verify; controls distinguish a good diagnosis from luck."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from hf_critmom.attribution.doubtful_labels import check_doubtful_labels
from hf_critmom.engines.arguments import EngineArguments
from hf_critmom.engines.interface import Engine, Work
from hf_critmom.engines.selection import select_engine
from hf_critmom.experiments.repair.arguments import check_treatment_arguments
from hf_critmom.experiments.repair.diagnosis import diagnose_network, find_labels
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.execution import Material, Shared, Treat, TreatmentExecutor, TreatmentStore
from hf_critmom.experiments.repair.plan import RepairPlan, RepairSettings, begun, store_plan, stored_threads
from hf_critmom.experiments.repair.results import (
    COST_FILE,
    DIAGNOSIS_FILE,
    LABELS_FILE,
    MASKS_FILE,
    Choice,
    Cost,
    DoubtfulLabels,
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
from hf_critmom.experiments.repair.training import Network, choose_masks, measure_cost
from hf_critmom.reporting.text import counted, join_names
from hf_critmom.storage.digest import weights_digest
from hf_critmom.storage.environment import versions
from hf_critmom.storage.files import atomic_write, explain_write_errors
from hf_critmom.storage.locks import single_writer
from hf_critmom.storage.once import compute_once
from hf_critmom.storage.run_folder import RunFolder
from hf_critmom.storage.threads import choose_threads, resolve_threads, torch_threads
from hf_critmom.storage.workers import Send, resolve_workers, run_in_workers
from hf_critmom.tasks.provenance import check_disjoint, content_fingerprint
from hf_critmom.training.arguments import recorded_training_arguments
from hf_critmom.training.flags import SEED

Value = TypeVar("Value")


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
    engine: EngineArguments | None = None,
    reload: Callable[[], Material] | None = None,
    on_cpu: bool = False,
) -> Repair:
    """Retrains chosen layer groups of a network, and verifies on the test split what that did.

    Scan classifies the logged epochs by damping regime. Localize attributes gradients on the misclassified examples of
    the diagnosis split to layer groups. Diagnose chooses groups. Treat trains a copy of the model with everything else
    frozen, with critically damped momentum unless ``args.optim`` names another optimizer. Verify counts what was fixed
    and what was broken on a test split that neither diagnosis nor treatment saw. The model itself is not changed.

    Everything is kept in ``args.output_dir``: repeating an interrupted call continues it, more seeds or controls extend
    it, and several launches share out the treatments.

    Args:
        model: A model that computes a loss and class logits: any image classifier or causal language model.
        args: Training arguments of the treatment, with batch sizes, seed and output folder.
        train_dataset: Dataset that treatments train on.
        diagnosis_dataset: Dataset whose errors are diagnosed.
        test_dataset: Dataset that verifies treatments.
        settings: Settings of the repair.
        data_collator: Collates examples into batches.
        processing_class: Image processor or tokenizer, saved with the repaired model.
        callbacks: Further callbacks for the training of treatments.
        log: Training log of the network, see `scan`.
        record: Anything else that identifies the repair, such as the checkpoint and the fingerprints of the data.
        command: The command line, for the record.
        progress: Called with a sentence about each step.
        workers: Number of processes that make treatments at the same time, forked from this one, which must not have
            computed with several threads before; None: as many as there are cores for. Results do not depend on it.
        threads: Number of threads of each treatment; None: that of the repair in the folder, else of this process.
        measure_threads: Whether to measure the number of threads for a new repair instead, see `choose_threads`.
        engine: Flags of the engine that makes treatments; None: workers on this machine.
        reload: Loads model and datasets on a machine of a Ray cluster, which receives only their names; it can be
            pickled.
        on_cpu: Whether no machine of the cluster may use an accelerator.

    Raises:
        EngineError: If the engine is not available.
        RepairError: If there are no errors to repair, groups do not exist or are frozen, the arguments or the seeds
            cannot be used, a treatment failed (the others are finished and kept), or the folder holds something else
            (such as a repair with other examples or labels), is damaged, or cannot be written.
        AttributionError: If the model's gradients cannot be attributed, or its labels cannot be doubtful.
        TaskError: If the splits overlap.
    """
    request, engine = settings or RepairSettings(), engine or EngineArguments()
    if engine.on_ray and reload is None:
        raise RepairError("--engine ray needs a function reload, with which other machines load model and data.")
    splits = {"train": train_dataset, "diagnosis": diagnosis_dataset, "test": test_dataset}
    overlap = check_disjoint(splits)
    described = "task" in (record or {})  # with fingerprints of its splits
    fingerprints = {} if described else {name: content_fingerprint(split) for name, split in splits.items()}
    seeds = _seeds(args.seed, request.num_seeds)
    check_treatment_arguments(args)
    material = Material(
        model, train_dataset, diagnosis_dataset, test_dataset, data_collator, processing_class, tuple(callbacks)
    )
    network = material.network(request.layers, args)
    layers = network.layers
    _check_groups(network, request)
    some = network.try_trainer(test_dataset)
    if request.check_labels:
        check_doubtful_labels(some)  # before the plan, which would keep the request
    folder, process = Path(str(args.output_dir)), PartialState()

    def default_threads() -> int:
        if not measure_threads:
            return torch.get_num_threads()
        return choose_threads(lambda: measure_cost(network, network.layers.names, steps=2).whole_seconds)

    threads = resolve_threads(
        stored_threads(folder), threads, default_threads, folder=folder, kind="repair", error=RepairError
    )
    roles = 1 + (len(CONTROLS) if request.controls else 0) + (request.granularity == "parameter")
    workers = resolve_workers(workers, threads, roles * request.num_seeds)
    made_by = select_engine(engine, workers=workers, threads=threads, on_cpu=on_cpu)
    plan = {
        "settings": request.record(),
        "layers": {name: len(members) for name, members in layers.parameters.items()},
        "weights": weights_digest(model),
        "seeds": seeds,
        "optimizer": {"optim": str(getattr(args.optim, "value", args.optim)), "optim_args": args.optim_args},
        "training": recorded_training_arguments(args),
        "overlap": {"compared": overlap.compared, "unknown": overlap.unknown, "shared": overlap.shared},
        "split_fingerprints": {name: sha256 for name, sha256 in fingerprints.items() if sha256 is not None},
        "scan": [vars(epoch) for epoch in scan(log)],
        **(record or {}),
        "versions": versions(),
        "threads": threads,
        "command": command,
    }
    kept = "what is finished is kept, and not repeated"
    with closing(made_by), single_writer(engine.on_ray), explain_write_errors(folder, RepairError, kept):
        if not begun(folder):
            made_by.start()  # a missing engine is reported before a folder is created
        store_plan(plan, folder, _legacy_digest(model), write=process.is_main_process)
        process.wait_for_everyone()
        executor = TreatmentExecutor(network, material, request.layers, reload, on_cpu)
        return RepairRunner(executor, RepairPlan.read(folder), request, folder, made_by, progress).run()


class RepairRunner:
    """The parts of a repair, each of which is stored when it is done.

    Args:
        executor: Makes treatments; it holds the network and the data.
        plan: The plan in the folder.
        request: The settings of this launch.
        folder: The repair's folder.
        engine: The engine that makes treatments.
        progress: Called with a sentence about each step.
    """

    def __init__(
        self,
        executor: TreatmentExecutor,
        plan: RepairPlan,
        request: RepairSettings,
        folder: Path,
        engine: Engine,
        progress: Callable[[str], None],
    ) -> None:
        self.executor, self.plan, self.request, self.folder = executor, plan, request, folder
        self.engine, self.progress = engine, progress
        self.network, self.diagnosis_dataset = executor.network, executor.material.diagnosis_dataset
        self.process = PartialState()

    def run(self) -> Repair:
        """Makes the missing parts of the repair, and reads all of them."""
        choice, labels, masks = self._computed(self._diagnose)
        self.progress(choice.reason)
        roles = targets_by_role(self.plan, choice)
        self._check_stored(roles, choice)
        treatments = self._treat(roles, masks)
        cost = self._computed(lambda: self._cost(choice))
        by_role = {
            role: [treatments[target, seed] for target, seed in zip(targets, self.plan.seeds, strict=True)]
            for role, targets in roles.items()
        }
        repair = Repair(list(self.plan.scan or ()), choice, by_role, cost, self.folder, self.plan, labels)
        chosen = repair.roles[CHOSEN][0]
        if self.process.is_main_process and not chosen.diverged:
            target = roles[CHOSEN][0]
            self._publish(self.folder / target.run_folder(self.plan.seeds[0]), chosen)
        self.process.wait_for_everyone()
        return repair

    def _computed(self, part: Callable[[], Value]) -> Value:
        """Computes a part of the repair once; in another process if workers are forked from this one."""
        if not self.engine.forks:
            with torch_threads(self.engine.threads):
                return part()

        def work(send: Send) -> None:
            self.executor.isolate()
            part()

        run_in_workers(
            work, workers=1, threads=self.engine.threads, on_event=lambda worker, kind, line: self.progress(line)
        )
        return part()  # reads what was stored

    def _diagnose(self) -> tuple[Choice, DoubtfulLabels | None, dict[str, torch.Tensor] | None]:
        """The groups to treat and, if the settings ask for them, doubtful labels and masks of single parameters."""
        settings, dataset = self.plan.settings, self.diagnosis_dataset
        choice = compute_once(
            self.folder / DIAGNOSIS_FILE,
            compute=lambda: diagnose_network(self.network, self.request, dataset),
            write=lambda found: write_choice(self.folder, found),
            read=lambda: read_choice(self.folder, self.plan),
        )
        labels = None
        if settings.get("check_labels"):
            labels = compute_once(
                self.folder / LABELS_FILE,
                compute=lambda: find_labels(self.network, dataset, self.plan.diagnosis_split or "diagnosis"),
                write=lambda found: write_record(self.folder / LABELS_FILE, found),
                read=lambda: read_labels(self.folder),
            )
        masks = self._masks(choice) if settings.get("granularity") == "parameter" else None
        return choice, labels, masks

    def _cost(self, choice: Choice) -> Cost:
        """Cost of a step of the treatment."""
        return compute_once(
            self.folder / COST_FILE,
            compute=lambda: measure_cost(self.network, choice.groups),
            write=lambda found: write_record(self.folder / COST_FILE, found),
            read=lambda: read_cost(self.folder, choice),
        )

    def _check_stored(self, roles: Mapping[str, list[Target]], choice: Choice) -> None:
        """Reads existing results: a damaged file is reported before hours of training, not after."""
        for targets in roles.values():
            for target, seed in zip(targets, self.plan.seeds, strict=True):
                run = RunFolder(self.folder / target.run_folder(seed))
                if run.finished():
                    read_treatment(run.path, target, seed)
        if (self.folder / COST_FILE).exists():
            read_cost(self.folder, choice)

    def _masks(self, choice: Choice) -> dict[str, torch.Tensor]:
        """Masks of the single parameters to train, as many as the chosen groups have."""
        shapes, count = self.network.trainable_shapes(), num_parameters(choice)
        return compute_once(
            self.folder / MASKS_FILE,
            compute=lambda: choose_masks(self.network, self.diagnosis_dataset, count),
            write=lambda found: write_masks(self.folder, found),
            read=lambda: read_masks(self.folder, shapes, count),
        )

    def _treat(
        self, roles: Mapping[str, list[Target]], masks: Mapping[str, torch.Tensor] | None
    ) -> dict[tuple[Target, int], Treatment]:
        """The treatments of all roles; each is made once."""
        seeds = self.plan.seeds
        wanted = dict.fromkeys(pair for targets in roles.values() for pair in zip(targets, seeds, strict=True))
        jobs = [Treat(target, seed) for target, seed in wanted]
        store, watcher = TreatmentStore(self.folder), _Watcher(jobs, self.folder, self.engine, self.progress)
        missing = []
        for job in jobs:
            if store.finished(job):
                watcher.handle(0, "finished", job.folder, True)
            else:
                missing.append(job)
        self.engine.run(Work(missing, Shared(self.plan, masks), self.executor, store, self.plan.versions), watcher)
        watcher.check()
        return {(job.target, job.seed): watcher.treatment(job) for job in jobs}

    def _publish(self, run: Path, treatment: Treatment) -> None:
        """Copies the repaired model, treated with the first seed, to the top of the folder."""
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


class _Watcher:
    """Reports on treatments: the `Observer` of an engine.

    Args:
        jobs: The treatments.
        folder: The repair's folder.
        engine: The engine.
        progress: Called with a sentence about each step.
    """

    def __init__(self, jobs: Sequence[Treat], folder: Path, engine: Engine, progress: Callable[[str], None]) -> None:
        self.folder, self.progress = folder, progress
        self._alone = engine.num_workers(len(jobs)) < 2
        self._jobs = {job.folder: job for job in jobs}
        self._found: dict[Path, Treatment] = {}
        self._failures: list[str] = []
        self._said: set[str] = set()

    def handle(self, worker: int, kind: str, *content: Any) -> None:
        """Handles an event of a worker."""
        if kind == "finished" and content[0] not in self._found:  # each worker reports the runs of all workers
            job = self._jobs[content[0]]
            counts = self.treatment(job).verification
            ended = "diverged"
            if counts is not None:
                ended = f"fixed {counts.fixed}, broken {counts.broken}, net {counts.net:+d}"
            self._say(f"{job.title}: {ended}")
        elif kind == "waiting" and self._alone:
            self._say(f"another launch is making the last {content[0]} treatments")
        elif kind == "failed":
            self._failures.append(content[0])
        elif kind == "message":
            self._say(content[0])

    def workers_started(self) -> None:
        """Does nothing: no thread is needed."""

    def worker_died(self, worker: int, sentence: str) -> None:
        """Reports that a worker died."""
        self.progress(sentence)

    def treatment(self, job: Treat) -> Treatment:
        """The result of a finished treatment."""
        if job.folder not in self._found:
            self._found[job.folder] = read_treatment(self.folder / job.folder, job.target, job.seed)
        return self._found[job.folder]

    def check(self) -> None:
        """Raises if a treatment failed.

        Raises:
            RepairError: If a treatment failed.
        """
        if self._failures:
            raise RepairError(" ".join(self._failures))

    def _say(self, text: str) -> None:
        if text.strip() and text not in self._said:
            self._said.add(text)
            self.progress(text)


def _belongs_to_model(file: Path) -> bool:
    """Whether a file in a run of an earlier version belongs to its model."""
    ours = ("result.json", "README.md", "training_args.bin")
    return file.is_file() and not file.is_symlink() and not file.name.startswith(".") and file.name not in ours


def _damaged_model(run: Path, why: str) -> RepairError:
    return RepairError(
        f"The repaired model in {run} is damaged ({why}): delete {run / 'result.json'} and repeat the command, which "
        "makes the treatment again."
    )


def _seeds(first: int, number: int) -> list[int]:
    """The seeds of every treatment."""
    seeds = list(range(first, first + number))
    if odd := [seed for seed in seeds if not SEED.accepts(seed)]:
        raise RepairError(
            f"{counted(number, 'seed')} from {first} on would include {odd[0]}: a seed must be {SEED.expected}, so "
            "choose another --seed."
        )
    return seeds


def _check_groups(network: Network, settings: RepairSettings) -> None:
    """Checks that a network has the groups that the settings name, and that they can be trained."""
    of_group = network.layers.of(network.model).items()
    able = [name for name, members in of_group if any(parameter.requires_grad for parameter in members.values())]
    if not able:
        raise RepairError(
            f"All parameters of {type(network.model).__name__} are frozen: set requires_grad on those that may be "
            "retrained."
        )
    if settings.groups != "auto":
        named = network.layers.check([settings.groups] if isinstance(settings.groups, str) else settings.groups)
        if frozen := [name for name in named if name not in able]:
            raise RepairError(
                f"All parameters of {join_names(frozen)} are frozen (requires_grad is False): choose among "
                f"{', '.join(able)}."
            )
    if settings.num_groups is not None and settings.num_groups > len(able):
        raise RepairError(
            f"num_groups is {settings.num_groups}, but this model has {counted(len(able), 'layer group')} with "
            f"trainable parameters: {', '.join(able)}."
        )


def _legacy_digest(model: nn.Module) -> str:
    """The digest of the weights that earlier versions stored in plans, by which their folders are recognised."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
