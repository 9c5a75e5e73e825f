"""Corrects the optimizer in the model card that the Trainer writes.

Transformers writes what ``args.optim`` and ``args.adam_beta1`` say, whatever optimizer the Trainer was given, and
``betas`` that are wrong if the first beta follows the learning rate.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from transformers import Trainer
from transformers.modelcard import extract_hyperparameters_from_trainer
from transformers.utils import logging

from hf_critmom.optim.resuming import STATE_KEYS
from hf_critmom.storage.files import atomic_write
from hf_critmom.storage.recorded_commands import shorten_paths
from hf_critmom.storage.redaction import redact

logger = logging.get_logger(__name__)


def mend_model_card(trainer: Trainer) -> None:
    """Rewrites the card in a trainer's output folder, if there is one, on the main process.

    The card then names the optimizer that trained, and holds neither secrets nor absolute paths.
    """
    file = Path(str(trainer.args.output_dir)) / "README.md"
    if not (trainer.is_world_process_zero() and file.is_file()):
        return
    card = file.read_text(encoding="utf-8")
    if trainer.optimizer is not None:
        written = f"- optimizer: {extract_hyperparameters_from_trainer(trainer).get('optimizer')}\n"
        named = f"- optimizer: {describe_optimizer(trainer.optimizer)}\n"
        if written not in card and named not in card and "\n- optimizer: " in card:
            logger.warning(
                f"{file} may name another optimizer than {describe_optimizer(trainer.optimizer)}, which trained: this "
                "release of Transformers writes cards in a form that hf-critmom does not know."
            )
        card = card.replace(written, named)
    with atomic_write(file) as partial:
        partial.write_text(shorten_paths(redact(card)), encoding="utf-8")


def describe_optimizer(optimizer: Optimizer) -> str:
    """An optimizer's class with the options in its param groups, except those that a schedule changes.

    Example:
        >>> import torch
        >>> describe_optimizer(torch.optim.SGD([torch.ones(1)], lr=0.1, momentum=0.9, nesterov=True))
        'SGD(momentum=0.9, nesterov=True)'
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)  # within Accelerate's wrapper
    groups = [_options(group) for group in optimizer.param_groups]
    options = {
        name: _distinct([group[name] for group in groups if name in group]) for group in groups for name in group
    }
    return f"{type(optimizer).__name__}({', '.join(f'{name}={value}' for name, value in options.items())})"


def _options(group: dict[str, Any]) -> dict[str, Any]:
    left_out = STATE_KEYS | {"initial_lr", "weight_decay", "nu"}
    options = dict(group)
    if "rule" in group:  # the momentum follows the learning rate
        left_out |= {"momentum", "betas"}
        if "betas" in group:
            options["beta2"] = group["betas"][1]
    return {
        name: value
        for name, value in options.items()
        if name not in left_out and value not in (None, False) and isinstance(value, (str, int, float, tuple))
    }


def _distinct(values: Sequence[Any]) -> str:
    return " and ".join(dict.fromkeys(map(str, values)))
