"""Reads training examples beside the training, without moving the random numbers that it draws.

Datasets and collators may have generators of their own, such as those of
``DataCollatorForLanguageModeling(seed=...)`` or of augmentations, which a measurement would otherwise advance. They may
also count what they serve, or keep the part of the data that was read last.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hf_critmom.curvature.owned import Generators, Held, reachable


@contextmanager
def left_alone(*owners: Any) -> Iterator[None]:
    """Restores what datasets, collators and what they consist of hold: generators, attributes, containers.

    Attributes and items are put back by reference, all of them, so that a number and the part of the data that it
    names stay together. What was overwritten within an array stays, and so does what lies beyond their own module, see
    `reachable`.

    Args:
        owners: Datasets, collators and the like.
    """
    found = list(reachable(*owners))
    generators, held = Generators(found), Held(found)
    try:
        yield
    finally:
        held.restore()
        generators.restore()
