"""Training in a repair: the Trainer of a treatment, its verification, and further measurements."""

import copy
import gc
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import Subset
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_critmom.attribution.attribution import mean_gradients, predict
from hf_critmom.attribution.batches import IGNORED, has_tokens
from hf_critmom.attribution.groups import LayerGroups
from hf_critmom.attribution.names import named_parameters
from hf_critmom.attribution.predictions import Predictions, model_loss
from hf_critmom.errors import InputError, root_message
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.results import Cost
from hf_critmom.experiments.repair.selection import CHOSEN, IKFAD_STEPS
from hf_critmom.experiments.repair.targets import Target
from hf_critmom.experiments.repair.treatment import (
    freeze_except,
    is_finite,
    largest_gradients,
    mask_except,
    step_times,
    trained_share,
)
from hf_critmom.experiments.repair.verification import changed_items, verify
from hf_critmom.optim.factory import named_optimizer
from hf_critmom.storage.environment import versions
from hf_critmom.storage.run_folder import RunFolder
from hf_critmom.training.callbacks.clock import TrainingClock
from hf_critmom.training.callbacks.divergence import StopWhenDiverged, has_diverged
from hf_critmom.training.trainer import CritMomTrainer


@dataclass
class Network:
    """The network that is repaired, with the arguments of its training.

    Attributes:
        model: The network; it is never changed.
        layers: Its layer groups.
        args: Training arguments of the treatments.
        train_dataset: Dataset that treatments train on.
        data_collator: Collates examples into batches.
        processing_class: Image processor or tokenizer, saved with the models.
        callbacks: Further callbacks for the training.
        before: Predictions of the test split before the repair, once they are computed.
    """

    model: nn.Module
    layers: LayerGroups
    args: TrainingArguments
    train_dataset: Any
    data_collator: Callable[[Any], Any] | None
    processing_class: Any
    callbacks: tuple[TrainerCallback, ...]
    before: Predictions | None = None
    _scratch: Any = field(default_factory=tempfile.TemporaryDirectory)

    def trainer(self, model: nn.Module, args: TrainingArguments, **kwargs: Any) -> CritMomTrainer:
        """A Trainer for a copy of the network."""
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

    def scratch_trainer(self, model: nn.Module, *, max_steps: int = 0, **kwargs: Any) -> CritMomTrainer:
        """A Trainer with a temporary output folder."""
        args = self.run_arguments(Path(self._scratch.name), self.args.seed)
        if max_steps:
            args.max_steps, args.report_to, args.push_to_hub = max_steps, [], False
            args.eval_strategy, args.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
        return self.trainer(model, args, **kwargs)

    def evaluator(self, model: nn.Module) -> CritMomTrainer:
        """A Trainer with a temporary output folder that has prepared a model for evaluation.

        The model then computes in the precision of the arguments (``bf16``, ``fp16``), as a treated one does:
        predictions in two precisions would differ where nothing was trained.
        """
        trainer = self.scratch_trainer(model)
        trainer.accelerator.prepare_model(model, evaluation_mode=True)
        return trainer

    def run_arguments(self, folder: Path, seed: int) -> TrainingArguments:
        """Training arguments of one treatment."""
        args = copy.deepcopy(self.args)
        args.output_dir = str(folder)
        args.seed = args.data_seed = seed
        return args

    def predictions_before(self, test_dataset: Any) -> Predictions:
        """Predictions of the test split before the repair."""
        if self.before is None:
            model = copy.deepcopy(self.model)
            trainer = self.evaluator(model)
            loader = trainer.get_eval_dataloader(test_dataset)
            self.before = predict(model, loader, accelerator=trainer.accelerator)
        return self.before

    def trainable_shapes(self) -> dict[str, torch.Size]:
        """Shape of each trainable parameter, by name."""
        return {name: p.shape for name, p in named_parameters(self.model).items() if p.requires_grad}

    def try_trainer(self, test_dataset: Any) -> Predictions:
        """Trains a copy for one step and predicts a batch, so that invalid arguments are found before any work.

        The step is not saved, reported or pushed, so a Trainer with the arguments as they are is made as well.

        Returns:
            Predictions of the batch.

        Raises:
            RepairError: If the Trainer refuses the arguments.
        """
        try:
            model = copy.deepcopy(self.model)
            self.scratch_trainer(model)
            trainer = self.scratch_trainer(model, max_steps=1)
            trainer.train()
            few = Subset(test_dataset, range(min(len(test_dataset), trainer.args.eval_batch_size)))
            return predict(model, trainer.get_eval_dataloader(few), accelerator=trainer.accelerator)
        except InputError:
            raise
        except (AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RepairError(f"The Trainer refuses these arguments ({root_message(error)}): change them.") from error


def train_and_verify(
    network: Network,
    target: Target,
    masks: Mapping[str, torch.Tensor] | None,
    seed: int,
    run_folder: RunFolder,
    test_dataset: Any,
) -> dict[str, Any]:
    """Trains a copy of the network, in some groups or single parameters only, and verifies it.

    Args:
        network: The network.
        target: Groups or parameters to train.
        masks: Masks of the single parameters, by name; None if the target is groups.
        seed: Seed of the training.
        run_folder: Folder of the training, from which an interrupted one resumes.
        test_dataset: Dataset on which predictions before and after are compared.

    Returns:
        The result, as JSON values.
    """
    before = network.predictions_before(test_dataset)
    model = copy.deepcopy(network.model)
    trainer = network.trainer(model, network.run_arguments(run_folder.path, seed))
    trainer.add_callback(TrainingClock())
    trainer.add_callback(StopWhenDiverged())
    treatment = freeze_except(model, network.layers, target.groups) if masks is None else mask_except(model, masks)
    with treatment as restore:
        if restore is not None:
            trainer.add_callback(restore)
        trained = trainer.train(resume_from_checkpoint=trainer.last_complete_checkpoint()).metrics
    after = None
    if not has_diverged(trainer.state.log_history) and is_finite(model):
        after = _finite_predictions(trainer, model, test_dataset)
    clock = next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, TrainingClock))
    examples = (
        trained["train_samples_per_second"] * trained["train_runtime"]
    )  # of all launches, like the clock's seconds
    result = {
        "groups": list(target.groups),
        "parameters": target.parameters,
        "seed": seed,
        "status": "diverged" if after is None else "finished",
        "steps": trainer.state.global_step,
        "seconds": clock.seconds,
        "samples_per_second": examples / clock.seconds if clock.seconds > 0.0 else 0.0,
        "verification": None if after is None else verify(before, after).to_dict(),
        "changed": [] if after is None else changed_items(before, after),
        "training_log": [record for record in trainer.state.log_history if "loss" in record],
        "versions": versions(),
        "files": {},
    }
    if after is not None:
        trainer.save_model()
        result["files"] = _digests(run_folder.path)
    del trainer, model
    gc.collect()
    return result


def _finite_predictions(trainer: CritMomTrainer, model: nn.Module, test_dataset: Any) -> Predictions | None:
    """Predictions of a treated model; None if its loss on a batch is not finite."""
    finite_losses: list[bool] = []

    def compute_loss(model: nn.Module, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        loss, outputs = model_loss(model, inputs)
        labels = inputs["labels"]
        labels = labels[:, 1:] if has_tokens(labels) else labels  # the first token of a text may have no loss
        if labels.ne(IGNORED).any():  # the mean over no label is not a number, and no sign of anything
            finite_losses.append(bool(torch.isfinite(loss)))
        return loss, outputs

    loader = trainer.get_eval_dataloader(test_dataset)
    predictions = predict(model, loader, compute_loss=compute_loss, accelerator=trainer.accelerator)
    return predictions if all(gather_object(finite_losses)) else None


def _digests(run: Path) -> dict[str, str]:
    """SHA-256 of each file of a saved model, by name."""
    others = ("result.json", "README.md", "training_args.bin", "error.txt")  # the last is of an earlier attempt
    files = [file for file in sorted(run.iterdir()) if file.is_file() and not file.name.startswith(".")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.name not in others}


def friction_of(network: Network) -> dict[str, float]:
    """Mean friction of each group after a short run of iKFAD on the training data.

    Raises:
        RepairError: If that run diverges.
    """
    model, learning_rate = copy.deepcopy(network.model), network.args.learning_rate
    optimizer = named_optimizer("ikfad", lr=learning_rate, options={})
    trainer = network.scratch_trainer(model, max_steps=IKFAD_STEPS, optimizer_cls_and_kwargs=optimizer)
    trainer.train()
    if not is_finite(model):
        raise RepairError(
            f"The short run of iKFAD that chooses the groups diverged at learning rate {learning_rate:g}: lower "
            "--learning_rate, or choose by the gradient."
        )
    ikfad: Any = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    trained = {id(parameter) for group in ikfad.param_groups for parameter in group["params"]}
    members = {
        name: [parameter for parameter in parameters.values() if id(parameter) in trained]
        for name, parameters in network.layers.of(model).items()
    }
    return {name: ikfad.friction(parameters) for name, parameters in members.items() if parameters}


def choose_masks(network: Network, diagnosis_dataset: Any, count: int) -> dict[str, torch.Tensor]:
    """Masks of the ``count`` single parameters with the largest gradient on the misclassified examples."""
    model = copy.deepcopy(network.model)
    trainer = network.evaluator(model)
    loader = trainer.get_eval_dataloader(diagnosis_dataset)
    return largest_gradients(mean_gradients(model, loader, accelerator=trainer.accelerator), count)


def measure_cost(network: Network, groups: tuple[str, ...], *, steps: int = 10) -> Cost:
    """Measures the cost of a step of a treatment, in its precision; ``steps`` is the number of measurements."""
    model = copy.deepcopy(network.model)
    trainer = network.evaluator(model)
    batch = next(iter(trainer.get_train_dataloader()))  # Accelerate has moved it to the model's device
    seconds = step_times(model, network.layers, {CHOSEN: groups, "whole": network.layers.names}, batch, steps)
    return Cost(trained_share(network.layers, model, groups), seconds[CHOSEN], seconds["whole"], groups)
