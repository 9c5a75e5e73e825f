"""The loss on fixed examples as a function of a model's parameters, which leaves the model as it is.

The function is smooth and the same at every evaluation: dropout is off, whatever draws random numbers draws the same
ones, and the parameters are substituted (`torch.func.functional_call`), so that neither they nor their gradients are
written to. Batch normalization uses the statistics of the batch ("train"), as in training, or the running ones
("eval"), which are of little use in the first epochs.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import recursively_apply, send_to_device
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_critmom.curvature.errors import CurvatureError
from hf_critmom.curvature.owned import generators_of
from hf_critmom.curvature.precision import is_narrow, wide
from hf_critmom.curvature.vectors import Vector
from hf_critmom.curvature.wrappers import unwrapped

BATCH_NORM_MODES = ("train", "eval")
WEIGHTINGS = ("items", "batches")
IGNORED = -100
"""The label that losses leave out."""

Result = TypeVar("Result")

ComputeLoss = Callable[[nn.Module, Any], Any]
"""The loss of a model on a batch, a mean over its items: a scalar, a tuple that it is the first of, or outputs with a
``loss``."""


def model_loss(model: nn.Module, batch: Any) -> Any:
    """The loss that a model computes from the labels in a batch."""
    return model(**batch) if isinstance(batch, Mapping) else model(batch)


class Objective:
    """The mean loss over batches, as a function of some of a model's parameters.

    Parameters and buffers in half precision are taken in single precision.

    Args:
        model: Any module; wrappers of data parallelism and compilation are taken off.
        batches: The examples, in as many pieces as memory needs; those without any label are left out.
        compute_loss: See `ComputeLoss`.
        parameters: The parameters that it is a function of; all that are trainable by default.
        batch_norm: "train" or "eval".
        weighting: What the mean of the batches' losses is taken over: "items", their rows or labelled tokens, or
            "batches", each counting the same.
        accelerator: Where several processes train one model, each with examples of its own: losses and gradients then
            are means over all of them, and every process must take part. None for this process alone.
        seed: Seed of the random numbers that a model may draw.

    Attributes:
        names: Names of the parameters that it is a function of.
        rows: Examples in each batch.
        weights: Weight of each batch's loss; all of them, of every process, add up to 1.

    Evaluate it within `preserved`, which leaves no trace of that.

    Raises:
        CurvatureError: If there is nothing to differentiate, there are no examples, or the parameters are sharded.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        compute_loss: ComputeLoss = model_loss,
        *,
        parameters: Sequence[nn.Parameter] | None = None,
        batch_norm: str = "train",
        weighting: str = "items",
        accelerator: Accelerator | None = None,
        seed: int = 0,
    ) -> None:
        for name, value, known in (
            ("batch_norm", batch_norm, BATCH_NORM_MODES),
            ("weighting", weighting, WEIGHTINGS),
        ):
            if value not in known:
                raise CurvatureError(f"{name}={value!r} is not known: choose {' or '.join(known)}.")
        self.model = unwrapped(model)
        self.batch_norm = batch_norm
        self.accelerator = accelerator if accelerator is not None and accelerator.num_processes > 1 else None
        self.seed = seed
        self._call = _LossOfModel(self.model, compute_loss)
        self._generators = generators_of(self.model, compute_loss)
        self._renormed = _renormed_weights(self.model)
        trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if parameters is not None:
            chosen = {id(p) for p in parameters}
            trainable = {name: p for name, p in trainable.items() if id(p) in chosen}
        if not trainable:
            raise CurvatureError(
                f"{type(self.model).__name__} has no trainable parameter here: its curvature is that of the loss along "
                "trainable parameters, so unfreeze some (requires_grad_(True))."
            )
        if any(p.is_complex() for p in trainable.values()):
            raise CurvatureError(
                f"{type(self.model).__name__} has complex parameters, for which curvature is not measured: freeze them "
                "(requires_grad_(False)), or store them as real numbers."
            )
        self.names = list(trainable)
        self._chosen = set(trainable)
        given = as_batches(batches)
        if not self.summed(float(len(given))):
            raise CurvatureError("There are no examples to measure on: pass at least one batch.")
        shifted = _shifts_labels(self.model)
        labelled = [(batch, items) for batch in given if (items := _labelled_items(batch, shifted))]
        if weighting == "batches":
            labelled = [(batch, 1.0) for batch, _ in labelled]
        total = self.summed(float(sum(items for _, items in labelled)))
        if total <= 0.0:
            raise CurvatureError("No example to measure on has a label: pass batches with labels.")
        self.batches = [batch for batch, _ in labelled]
        self.rows = [count_rows(batch) for batch in self.batches]
        self.weights = [items / total for _, items in labelled]

    def point(self) -> Vector:
        """The parameters where they are now, in single precision at least; those that are so already are not copied."""
        return list(self.parts())

    def parts(self) -> Iterator[Tensor]:
        """The parts of `point`, one at a time."""
        return (wide(value) for value in self.values())

    def values(self) -> list[Tensor]:
        """The parameters where they are now, in their own precision."""
        parameters = dict(self.model.named_parameters())
        return [parameters[name].detach() for name in self.names]

    def loss(self, point: Sequence[Tensor], index: int, widen: Callable[[Tensor], Tensor] = wide) -> Tensor:
        """The loss of one batch at a point, times the batch's weight.

        Args:
            point: Where.
            index: Which batch.
            widen: Makes copies in single precision of frozen parameters in half precision.

        Raises:
            CurvatureError: If the model returns no loss, or one that is not finite.
        """
        return self._with_loss(point, index, lambda loss: loss, widen)

    def batch_gradient(self, point: Sequence[Tensor], index: int) -> list[Tensor | None]:
        """Gradient of one batch's weighted loss at a point; None where the loss does not depend on a parameter."""
        leaves = [value.detach().requires_grad_() for value in point]

        def gradient_of(loss: Tensor) -> list[Tensor | None]:
            if not loss.requires_grad:
                return [None] * len(leaves)
            gradient = torch.autograd.grad(loss, leaves, allow_unused=True)
            return [part.to_dense() if part is not None and part.is_sparse else part for part in gradient]

        with torch.enable_grad():  # while the parameters are substituted, for what is recomputed on the way back
            return self._with_loss(leaves, index, gradient_of)

    def _with_loss(
        self,
        point: Sequence[Tensor],
        index: int,
        then: Callable[[Tensor], Result],
        widen: Callable[[Tensor], Tensor] = wide,
    ) -> Result:
        buffers = {name: wide(buffer.detach()).clone() for name, buffer in self.model.named_buffers()}
        # Frozen parameters stay, where their precision lets them: those of quantized layers are more than tensors.
        others = {
            name: widen(p.detach())
            for name, p in self.model.named_parameters()
            if name not in self._chosen and (p.requires_grad or is_narrow(p) or name in self._renormed)
        }
        values = {**buffers, **others, **dict(zip(self.names, point, strict=True))}
        values |= {name: values[name].clone() for name in self._renormed}
        device = point[0].device
        batch = recursively_apply(wide, send_to_device(self.batches[index], device), test_type=torch.is_tensor)
        torch.manual_seed(self.seed + index)
        random.seed(self.seed + index)
        np.random.seed(self.seed + index)
        self._generators.seed(self.seed + index)

        def finish(result: Any) -> Result:
            loss = self._scalar(result)
            return then(loss.to(torch.promote_types(loss.dtype, torch.float32)) * self.weights[index])

        substituted = {f"model.{name}": value for name, value in values.items()}
        return functional_call(self._call, substituted, (batch, finish))

    @torch.no_grad()
    def add_gradient(self, point: Sequence[Tensor], out: Vector, scale: float = 1.0) -> None:
        """Adds the gradient at a point, times a number, to a vector; of this process's examples only."""
        leaves = [value.detach().requires_grad_() for value in point]

        def add_gradient_of(loss: Tensor) -> None:
            if loss.requires_grad:
                (loss * scale).backward(inputs=leaves)

        for index in range(len(self.batches)):
            with torch.enable_grad(), _accumulating(leaves, out):
                self._with_loss(leaves, index, add_gradient_of)

    def gradient(self) -> Vector:
        """The gradient where the parameters are now, of all processes' examples."""
        out = [torch.zeros_like(value) for value in self.parts()]
        self.add_gradient(self.point(), out)
        self.reduce_(out)
        return out

    @torch.no_grad()
    def value(self) -> float:
        """The loss where the parameters are now, of all processes' examples."""
        point = self.point()
        return self.summed(float(sum(self.loss(point, index).item() for index in range(len(self.batches)))))

    def reduce_(self, vector: Vector) -> None:
        """Sums a vector over the processes, in place."""
        if self.accelerator is not None:
            for part in vector:
                dist.all_reduce(part)

    def summed(self, number: float) -> float:
        """Sums a number over the processes."""
        return summed(number, self.accelerator)

    def _scalar(self, result: Any) -> Tensor:
        loss = result.get("loss") if isinstance(result, Mapping) else getattr(result, "loss", result)
        loss = loss[0] if isinstance(loss, (tuple, list)) and loss else loss
        name = type(self.model).__name__
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise CurvatureError(
                f"{name} returned no loss for the examples to measure on: pass batches with labels to a model that "
                "computes its loss from them, or pass compute_loss."
            )
        # With several processes all of them go on, and meet it in what they share: none is left waiting for another.
        if self.accelerator is None and not torch.isfinite(loss.detach()).item():
            raise CurvatureError(
                f"The loss of {name} on the examples to measure on is {loss.item()}: curvature needs a finite one, so "
                "measure before the training diverges, or lower the learning rate."
            )
        return loss.reshape(())


class _LossOfModel(nn.Module):
    """Lets `functional_call` substitute a model's parameters within any loss function."""

    def __init__(self, model: nn.Module, compute_loss: ComputeLoss) -> None:
        super().__init__()
        self.model = model
        self.compute_loss = compute_loss

    def forward(self, batch: Any, finish: Callable[[Any], Any]) -> Any:
        """Whatever is made of the loss function's result."""
        return finish(self.compute_loss(self.model, batch))


@contextmanager
def _accumulating(leaves: Sequence[Tensor], out: Vector) -> Iterator[None]:
    """Within, backward passes add gradients to the vector, each part as soon as it is known, so that none is held."""
    for leaf, total in zip(leaves, out, strict=True):
        leaf.grad = total
    try:
        yield
    finally:
        for leaf in leaves:
            leaf.grad = None


def no_fused_attention() -> AbstractContextManager[Any]:
    """Has torch's attention computed by plain operations, which have second derivatives."""
    return sdpa_kernel(SDPBackend.MATH)


def summed(number: float, accelerator: Accelerator | None) -> float:
    """Sums a number over the processes, if there are several."""
    if accelerator is None or accelerator.num_processes < 2:
        return number
    total = torch.tensor(number, dtype=torch.float64, device=accelerator.device)
    dist.all_reduce(total)
    return total.item()


def as_batches(batches: Iterable[Any]) -> list[Any]:
    """Batches as a list.

    Raises:
        CurvatureError: If it is one batch rather than several, or nothing of the kind.
    """
    if isinstance(batches, (Mapping, Tensor)):
        raise CurvatureError("batches is a single batch: pass a list of batches, such as [batch].")
    if not isinstance(batches, Iterable):
        raise CurvatureError(f"batches={batches!r} is not valid: pass a list of batches, such as [batch].")
    return list(batches)


def count_rows(batch: Any) -> int:
    """Examples in a batch: as many as it has labels, else the length of its first tensor; 1 if it has none."""
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    for value in (labels, batch):
        if value is labels and isinstance(value, (list, tuple)):
            return len(value)
        if (tensor := _first_tensor(value)) is not None:
            return len(tensor)
    return 1  # a batch of another kind is a unit of its own


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if value.ndim else None
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)


def _labelled_items(batch: Any, shifted: bool) -> float:
    """Labelled tokens or rows of a batch, all rows where labels are no classes: what its mean loss is a mean over."""
    labels = None
    if isinstance(batch, Mapping):
        shifted = shifted and "shift_labels" not in batch  # already shifted
        labels = batch.get("shift_labels", batch.get("labels"))
    if isinstance(labels, Tensor) and labels.ndim and not labels.is_floating_point():
        return float((labels[..., 1:] if shifted and labels.ndim > 1 else labels).ne(IGNORED).sum().item())
    return float(count_rows(batch))


def _renormed_weights(model: nn.Module) -> set[str]:
    """Names of weights that a pass forward writes to: those of embeddings with a largest norm."""
    embeddings = (nn.Embedding, nn.EmbeddingBag)
    renormed = {id(m.weight) for m in model.modules() if isinstance(m, embeddings) and m.max_norm is not None}
    return {name for name, p in model.named_parameters() if id(p) in renormed}


def _shifts_labels(model: nn.Module) -> bool:
    """Whether a language model predicts each label from the tokens before it, so that the first one does not count."""
    loss_type = getattr(model, "loss_type", None)
    if not isinstance(loss_type, str):
        return False
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

    encodes = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return LOSS_MAPPING.get(loss_type) is ForCausalLMLoss and not encodes
