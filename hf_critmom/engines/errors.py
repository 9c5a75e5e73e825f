"""Errors of the engines."""

from hf_critmom.errors import InputError


class EngineError(InputError):
    """An engine cannot make runs, or cannot make more."""
