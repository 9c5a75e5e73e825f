"""Errors of the engines."""

from hf_critmom.errors import InputError


class EngineError(InputError):
    """An engine cannot execute runs, or no more of them."""
