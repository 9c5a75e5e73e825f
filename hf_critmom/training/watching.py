"""Watches every Trainer, of whatever class, that an unmodified program builds."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook


@contextmanager
def watched_trainers(
    *, log_damping: bool = True, prepare: Callable[[Any], None] = lambda trainer: None
) -> Iterator[None]:
    """Within the context, every Trainer logs its damping state and names its optimizer in the automatic model card.

    If the optimizer needs the curvature (``curvature=auto``), it is measured. torch's own optimizers refuse the state
    of another optimizer, as those of this package do (`guard_resuming`). A warning says so where ``--optim`` names an
    optimizer of this package and the program trains with another one.

    `transformers.Trainer` is extended when the program imports it, so that a program without one does not pay for the
    import, and is restored at the end.

    Args:
        log_damping: Whether each Trainer is given a `DampingCallback`, unless it has one.
        prepare: Called with each Trainer after its construction.
    """
    undo: list[Callable[[], None]] = []
    active = True

    def watch(module: ModuleType) -> None:
        if active:
            undo.extend(_watch(module.Trainer, log_damping, prepare))

    register_post_import_hook(watch, "transformers.trainer")
    try:
        yield
    finally:
        active = False
        for restore in undo:
            restore()


def _watch(trainer_cls: Any, log_damping: bool, prepare: Callable[[Any], None]) -> list[Callable[[], None]]:
    construct, write_card = trainer_cls.__init__, trainer_cls.create_model_card
    create_optimizer = trainer_cls.create_optimizer

    @functools.wraps(construct)
    def construct_and_watch(self: Any, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        _give_callbacks(self, log_damping)
        prepare(self)

    @functools.wraps(create_optimizer)
    def create_and_guard_optimizer(self: Any, *args: Any, **kwargs: Any) -> Any:
        optimizer = create_optimizer(self, *args, **kwargs)
        inner = getattr(self.optimizer, "optimizer", self.optimizer)  # inside Accelerate's wrapper, if any
        _guard(inner)
        _warn_if_unused(str(getattr(self.args.optim, "value", self.args.optim)), inner)
        return optimizer

    @functools.wraps(write_card)
    def write_and_mend_card(self: Any, *args: Any, **kwargs: Any) -> None:
        from hf_critmom.training.cards import mend_model_card

        write_card(self, *args, **kwargs)
        mend_model_card(self)

    trainer_cls.__init__ = construct_and_watch
    trainer_cls.create_model_card = write_and_mend_card
    trainer_cls.create_optimizer = create_and_guard_optimizer
    return [
        lambda: setattr(trainer_cls, "__init__", construct),
        lambda: setattr(trainer_cls, "create_model_card", write_card),
        lambda: setattr(trainer_cls, "create_optimizer", create_optimizer),
    ]


def _guard(optimizer: Any) -> None:
    """Makes torch's own optimizers refuse the state of others, so that none inherits a damped momentum."""
    from torch.optim import SGD, Adam, AdamW

    from hf_critmom.optim.resuming import guard_resuming

    if type(optimizer) in (SGD, Adam, AdamW):
        guard_resuming(optimizer)


def _warn_if_unused(name: str, optimizer: Any) -> None:
    """Warns where the optimizer of this package that ``--optim`` names is not the one that trains."""
    from transformers.utils import logging

    from hf_critmom.optim.factory import OPTIMIZERS

    if name in OPTIMIZERS and not isinstance(optimizer, OPTIMIZERS[name].cls):
        logging.get_logger(__name__).warning_once(
            f"--optim {name} has no effect: the program gives its Trainer an optimizer of its own, "
            f"{type(optimizer).__name__}."
        )


def _give_callbacks(trainer: Any, log_damping: bool) -> None:
    from hf_critmom.training.callbacks import DampingCallback, give_curvature_callback

    give_curvature_callback(trainer)
    if not log_damping:
        return
    present = [one for one in trainer.callback_handler.callbacks if isinstance(one, DampingCallback)]
    for callback in present:
        callback.trainer = callback.trainer or trainer
    if not present:  # through the handler: a subclass may override add_callback
        trainer.callback_handler.add_callback(DampingCallback(trainer))
