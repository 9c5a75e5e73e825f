"""Treatments for an engine: its job, executor and store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from hf_critmom.attribution.groups import Groups, layer_groups
from hf_critmom.engines.interface import ComputeEnvironment, Load
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.plan import RepairPlan
from hf_critmom.experiments.repair.targets import Target
from hf_critmom.experiments.repair.training import Network, train_and_verify
from hf_critmom.storage.digest import weights_digest
from hf_critmom.storage.environment import device_name, versions
from hf_critmom.storage.run_folder import RunFolder
from hf_critmom.storage.workers import Send
from hf_critmom.tasks.splits import Split
from hf_critmom.training.arguments import portable_arguments, settle_device


@dataclass(frozen=True)
class Material:
    """The network and the data of a repair, which another machine loads for itself.

    Attributes:
        model: The network.
        train_dataset: Dataset that treatments train on.
        diagnosis_dataset: Dataset whose errors are diagnosed.
        test_dataset: Dataset that verifies treatments.
        data_collator: Collates examples into batches.
        processing_class: Image processor or tokenizer, saved with the repaired model.
        callbacks: Further callbacks for the training of treatments.
    """

    model: nn.Module
    train_dataset: Any
    diagnosis_dataset: Any
    test_dataset: Any
    data_collator: Callable[[Any], Any] | None = None
    processing_class: Any = None
    callbacks: Sequence[TrainerCallback] = ()

    def network(self, layers: Groups, args: TrainingArguments) -> Network:
        """The network with its layer groups and the training arguments.

        Args:
            layers: Grouping of its parameters, see `layer_groups`.
            args: Training arguments of the treatments.
        """
        return Network(
            self.model,
            layer_groups(self.model, layers),
            args,
            self.train_dataset,
            self.data_collator,
            self.processing_class,
            tuple(self.callbacks),
        )

    def isolate(self) -> None:
        """Gives a forked process its own state of the data."""
        for dataset in (self.train_dataset, self.diagnosis_dataset, self.test_dataset):
            if isinstance(dataset, Split):
                dataset.isolate()


@dataclass(frozen=True)
class Treat:
    """A treatment to be made: the `Job` of an engine.

    Attributes:
        target: Groups or parameters to train.
        seed: Seed of the training.
    """

    target: Target
    seed: int

    @property
    def folder(self) -> Path:
        """The treatment's folder, relative to the repair's."""
        return self.target.run_folder(self.seed)

    @property
    def title(self) -> str:
        """Name of the treatment in messages."""
        return f"{self.target.title}, seed {self.seed}"


@dataclass(frozen=True)
class TreatmentStore:
    """Keeps results in the folders of treatments: the `Store` of an engine.

    Attributes:
        folder: The repair's folder.
    """

    folder: Path

    def finished(self, job: Treat) -> bool:
        """Whether a treatment is finished."""
        return RunFolder(self.folder / job.folder).finished()

    def keep(self, job: Treat, result: dict[str, Any], load: Load) -> None:
        """Writes a result, with the record of where it was made."""
        RunFolder(self.folder / job.folder).finish({**result, "load": vars(load)})


@dataclass(frozen=True)
class Shared:
    """What all treatments of a repair share.

    Attributes:
        plan: The repair's plan.
        masks: Masks of the single parameters to train, by name; None if no target has them.
    """

    plan: RepairPlan
    masks: Mapping[str, torch.Tensor] | None


class TreatmentExecutor:
    """Makes treatments: the `Executor` of an engine.

    Args:
        network: The network with its training arguments.
        material: The network and the data.
        layers: Grouping of the network's parameters, see `layer_groups`.
        reload: Loads the material on another machine; it can be pickled. None: other machines cannot load it.
        on_cpu: Whether no machine may use an accelerator.
    """

    def __init__(
        self,
        network: Network,
        material: Material,
        layers: Groups,
        reload: Callable[[], Material] | None,
        on_cpu: bool,
    ) -> None:
        self.args, self.layers, self.reload, self.on_cpu = network.args, layers, reload, on_cpu
        self._network: Network | None = network
        self._material: Material | None = material

    @property
    def network(self) -> Network:
        """The network; an executor that was pickled has it only after `prepare`."""
        assert self._network is not None
        return self._network

    @property
    def material(self) -> Material:
        """The material; an executor that was pickled has it only after `prepare`."""
        assert self._material is not None
        return self._material

    @property
    def resumable(self) -> bool:
        """Whether treatments save checkpoints."""
        return self.args.save_strategy != SaveStrategy.NO

    def isolate(self) -> None:
        """Gives this process its own state of the data."""
        self.material.isolate()

    def prepare(self, plan: Shared, threads: int) -> ComputeEnvironment:
        """Loads network and data, and checks them against the plan."""
        torch.set_num_threads(threads)
        assert self.reload is not None
        settle_device(self.args, on_cpu=self.on_cpu)
        self._material = self.reload()
        if weights_digest(self._material.model) != plan.plan.weights:
            raise RepairError("the checkpoint has different weights there than on the machine of the command.")
        self._network = self._material.network(self.layers, self.args)
        return ComputeEnvironment(device_name(), versions())

    def execute(self, job: Treat, plan: Shared, folder: Path, send: Send) -> dict[str, Any]:
        """Makes a treatment, or resumes it where it stopped."""
        send("message", f"treating {job.title}")
        masks = plan.masks if job.target.parameters is not None else None
        test = self.material.test_dataset
        return train_and_verify(self.network, job.target, masks, job.seed, RunFolder(folder), test)

    def __getstate__(self) -> dict[str, Any]:
        """Everything except network, data and what is specific to this machine."""
        return {**self.__dict__, "args": portable_arguments(self.args), "_network": None, "_material": None}
