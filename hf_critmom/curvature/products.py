"""Products of the Hessian with a vector, without the Hessian.

``double_backward`` differentiates the gradient along the vector and is exact (Pearlmutter 1994, Neural Computation
6:147). ``central_differences`` takes two gradients, ``(g(theta + e v) - g(theta - e v)) / 2 e``, for models whose
kernels have no second derivative. Where a network has kinks, as with ReLU, the two differ: differences see the jumps of
the gradient between the two points, derivatives do not.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, get_gradient_edge

from hf_critmom.curvature.errors import CurvatureError
from hf_critmom.curvature.objective import Objective, no_fused_attention
from hf_critmom.curvature.precision import WideCopies
from hf_critmom.curvature.vectors import Vector, norm
from hf_critmom.errors import root_message

METHODS = ("auto", "double_backward", "central_differences")

_RELATIVE_STEP = 1e-4
"""Length of the step of a difference, as a share of the length of the parameters: on small transformers in single
precision, truncation and rounding are then both below 2 percent of the top eigenvalue."""


_WRONG_SECOND_DERIVATIVES: Mapping[str, Callable[[Any], bool]] = {
    # It takes the norm of the weights for a constant.
    "WeightNormInterfaceBackward": lambda node: True,
    # It leaves the bias out where there is no weight.
    "NativeLayerNormBackward": lambda node: node._saved_weight is None and node.next_functions[2][0] is not None,
}
"""Functions of torch whose second derivative is wrong in silence, under the condition given: `gradgradcheck` fails."""


class Hessian:
    """The Hessian of an objective where the model's parameters are, as a linear map.

    Beside the vectors of the caller it needs one of the size of the gradient. With one batch, `double_backward` keeps
    the graph of the gradient between products.

    Args:
        objective: What is differentiated twice.
        method: "double_backward", "central_differences", or "auto": the first where it works, else the second.

    Attributes:
        method: The method in use.
        products: Number of products so far.
        relative_step: Length of the step of a difference, as a share of the length of the parameters.

    Raises:
        CurvatureError: If the method is not known, or there is no second derivative where it was requested.
    """

    def __init__(self, objective: Objective, method: str = "auto") -> None:
        if method not in METHODS:
            raise CurvatureError(f"method={method!r} is not known: choose one of {', '.join(METHODS)}.")
        self.objective = objective
        self.products = 0
        self.relative_step = _RELATIVE_STEP
        self.method = "central_differences" if method == "central_differences" else "double_backward"
        self._demanded = method == "double_backward"
        self._graph: _GradientGraph | None = None
        self._checked: set[int] = set()
        if self.method == "double_backward":
            self._try(self._first_graph)

    def add_product(self, vector: Sequence[Tensor], out: Vector) -> None:
        """Adds the product with a vector to another vector, in place; in every process, the sum over all of them.

        Raises:
            MethodChangedError: If the second derivative does not exist, with method="auto"; in every process.
            CurvatureError: If the loss is not finite.
        """
        self.products += 1
        shared = 1.0 if self.objective.accelerator is None else 1.0 / self.objective.accelerator.num_processes
        if shared != 1.0:
            torch._foreach_mul_(out, shared)
        if self.method == "double_backward":
            self._try(lambda: self._add_derivatives(vector, out))
            if self.method != "double_backward":
                raise MethodChangedError(
                    f"{type(self.objective.model).__name__} has no second derivative: products are central differences "
                    "from now on, so begin again what this one was a part of."
                )
        else:
            self._add_difference(vector, out)
        self.objective.reduce_(out)

    def close(self) -> None:
        """Frees the graph."""
        self._graph = None

    # -------------------------------------------------------------------------------------------------- double backward

    def _first_graph(self) -> None:
        if self.objective.batches:  # else all of them are other processes'
            self._graph = self._graph_of(0)

    def _graph_of(self, index: int) -> "_GradientGraph":
        """The gradient of a batch, looked through once for what has no second derivative, or none to be trusted."""
        graph = _GradientGraph(self.objective, index)
        if index not in self._checked:
            for node in graph.nodes():
                if node.name() == "torch::autograd::Error":
                    raise _NoSecondDerivativeError("one of its functions is marked as once differentiable")
                for name, is_wrong in _WRONG_SECOND_DERIVATIVES.items():
                    if node.name().startswith(name) and is_wrong(node):
                        raise _NoSecondDerivativeError(f"that of torch's {name.removesuffix('Backward')} is wrong")
                if not self._demanded and isinstance(node, BackwardCFunction):
                    raise _NoSecondDerivativeError("one of its functions is defined in Python")
            self._checked.add(index)
        return graph

    def _add_derivatives(self, vector: Sequence[Tensor], out: Vector) -> None:
        keep = len(self.objective.batches) == 1
        for index in range(len(self.objective.batches)):
            graph = self._graph or self._graph_of(index)
            self._graph = graph if keep else None
            graph.add_derivatives_along(vector, out, keep)
            del graph  # before the next one is built

    def _try(self, differentiate: Callable[[], None]) -> None:
        """Does what needs a second derivative; where a process has none, all take differences from now on."""
        try:
            differentiate()
        except _NoSecondDerivativeError as error:
            self._graph = None
            if self._demanded:
                raise CurvatureError(
                    f"{type(self.objective.model).__name__} has no second derivative ({error}): use "
                    "method=central_differences."
                ) from error
            self.method = "central_differences"
        if self.objective.summed(float(self.method == "central_differences")):
            self._graph = None
            self.method = "central_differences"

    # ---------------------------------------------------------------------------------------------- central differences

    def _add_difference(self, vector: Sequence[Tensor], out: Vector) -> None:
        length = norm(vector)
        if length == 0.0:
            return
        step = self.relative_step * max(norm(self.objective.point()), 1.0) / length
        torch._foreach_mul_(out, 2.0 * step)
        for sign in (1.0, -1.0):
            self.objective.add_gradient(self._moved(vector, sign * step), out, scale=sign)
        torch._foreach_div_(out, 2.0 * step)

    @torch.no_grad()
    def _moved(self, vector: Sequence[Tensor], step: float) -> Vector:
        """The point that lies a step along a vector from where the parameters are."""
        return [part.add(along, alpha=step) for part, along in zip(self.objective.parts(), vector, strict=True)]


class MethodChangedError(CurvatureError):
    """A product that failed because there is no second derivative; the vector that it was added to is lost."""


class _NoSecondDerivativeError(Exception):
    """A gradient that cannot be differentiated; the message says why."""


class _GradientGraph:
    """The gradient of one batch as part of a graph, to be differentiated; its values themselves are not kept."""

    def __init__(self, objective: Objective, index: int) -> None:
        copies = WideCopies()
        self._edges: dict[int, GradientEdge] = {}
        with torch.enable_grad(), no_fused_attention(), copies.not_kept():
            point = [copies.wide(value.requires_grad_()) for value in objective.values()]
            self._variables = [get_gradient_edge(part) for part in point]
            loss = objective.loss(point, index, copies.wide)
            del point  # copies, if it is a model in half precision
            self._root = get_gradient_edge(loss) if loss.requires_grad else None
            if self._root is None:
                return
            with _second_derivative():
                gradient = torch.autograd.grad(loss, self._variables, create_graph=True, allow_unused=True)
        for place, part in enumerate(gradient):
            if part is not None and part.requires_grad:  # else the loss is linear in it
                self._edges[place] = get_gradient_edge(part)

    def add_derivatives_along(self, vector: Sequence[Tensor], out: Vector, keep: bool) -> None:
        """Adds the product of this batch's Hessian with a vector to another vector."""
        if not self._edges:
            return
        along = [vector[place] for place in self._edges]
        edges = list(self._edges.values())
        with _second_derivative():
            parts = torch.autograd.grad(edges, self._variables, along, retain_graph=keep, allow_unused=True)
        with torch.no_grad():
            for total, part in zip(out, parts, strict=True):
                if part is not None:
                    total.add_(part)

    def nodes(self) -> Iterator[Any]:
        """Every function that loss and gradient were computed by.

        Those that Python code defines may not be differentiable twice. Torch marks some of them so; others give a wrong
        second derivative in silence, since their backward pass is no part of the graph.
        """
        waiting: list[Any] = [edge.node for edge in (self._root, *self._edges.values()) if edge is not None]
        seen = set(waiting)
        while waiting:
            node = waiting.pop()
            yield node
            for following, _ in node.next_functions:
                if following is not None and following not in seen:
                    seen.add(following)
                    waiting.append(following)


@contextlib.contextmanager
def _second_derivative() -> Iterator[None]:
    """What torch raises where something has no second derivative, by one name."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise _NoSecondDerivativeError(root_message(error)) from error


@contextlib.contextmanager
def hessian(objective: Objective, method: str = "auto") -> Iterator[Hessian]:
    """A `Hessian` whose graph is freed at the end."""
    opened = Hessian(objective, method)
    try:
        yield opened
    finally:
        opened.close()
