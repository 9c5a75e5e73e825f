"""Muon with AdamW for the parameters that it cannot train, and the param groups that both need."""

from collections.abc import Callable, Collection, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """`torch.optim.Muon` for parameters that are matrices, `torch.optim.AdamW` for all others.

    Muon takes matrices only; torch's documentation recommends "a standard method such as AdamW" for biases, embeddings
    and other parameters. Here AdamW also trains parameters of more than two dimensions, such as convolution kernels,
    and embeddings if they are in a group with ``matrix=False``. Both optimizers have the same learning rate and weight
    decay; ``adjust_lr_fn="match_rms_adamw"``, the default here, scales Muon's steps to the size of AdamW's, so that
    they can be shared (Liu et al., arXiv 2502.16982).

    Args:
        params: Parameters or param groups.
        lr: Learning rate of both.
        weight_decay: Decoupled weight decay of both.
        betas: Betas of AdamW.
        adamw_eps: Epsilon of AdamW.
        adjust_lr_fn: How Muon adjusts its learning rate.
        options: Other options of `torch.optim.Muon`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        adamw_eps: float = 1e-8,
        adjust_lr_fn: str | None = "match_rms_adamw",
        **options: Any,
    ) -> None:
        groups = [dict(group) if isinstance(group, dict) else {"params": [group]} for group in params]
        matrices, others = [], []
        for group in groups:
            own = group.pop("params")
            own = [own] if isinstance(own, Tensor) else list(own)
            may_be_matrix = group.pop("matrix", True)
            of_muon = [parameter for parameter in own if may_be_matrix and parameter.ndim == 2]
            of_adamw = [parameter for parameter in own if not may_be_matrix or parameter.ndim != 2]
            if of_muon:
                matrices.append({**group, "params": of_muon})
            if of_adamw:
                others.append({**group, "params": of_adamw})
        muon = Muon(
            matrices or [{"params": [_placeholder()]}],
            lr=lr,
            weight_decay=weight_decay,
            adjust_lr_fn=adjust_lr_fn,
            **options,
        )
        adamw = AdamW(
            others or [{"params": [_placeholder()]}], lr=lr, weight_decay=weight_decay, betas=betas, eps=adamw_eps
        )
        self._parts = {"muon": muon, "adamw": adamw}
        own_groups = [{**group, "part": "muon"} for group in muon.param_groups if matrices]
        own_groups += [{**group, "part": "adamw"} for group in adamw.param_groups if others]
        super().__init__(own_groups, {"lr": lr, "weight_decay": weight_decay})
        self._share()

    def _share(self) -> None:
        """Lets both optimizers use this one's param groups and state, which schedulers and checkpoints change."""
        for name, part in self._parts.items():
            part.param_groups = [group for group in self.param_groups if group["part"] == name]
            part.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state from `state_dict`."""
        super().load_state_dict(state_dict)
        self._share()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Performs one step of both optimizers.

        Args:
            closure: Reevaluates the model and returns the loss.

        Returns:
            The closure's loss; None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts.values():
            if part.param_groups:
                part.step()
        return loss


def decay_groups(
    model: torch.nn.Module, weight_decay: float, decayed: Collection[str], *, for_muon: bool
) -> list[dict[str, Any]]:
    """Param groups with and without weight decay, as the Trainer makes them, but with embeddings in separate groups.

    Args:
        model: The model.
        weight_decay: The weight decay.
        decayed: Names of the parameters with weight decay.
        for_muon: Whether to mark the groups of embeddings, which Muon must not train, with ``matrix=False``.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name in decayed, id(parameter) not in embeddings), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if has_decay else 0.0,
            **({"matrix": may_be_matrix} if for_muon else {}),
        }
        for (has_decay, may_be_matrix), parameters in groups.items()
    ]


def _placeholder() -> Tensor:
    """A parameter for an optimizer without any, which torch refuses to construct."""
    return torch.zeros(1, 1, requires_grad=True)
