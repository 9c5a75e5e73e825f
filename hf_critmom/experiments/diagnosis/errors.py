"""The error of this experiment."""

from hf_critmom.errors import InputError


class DiagnosisError(InputError):
    """A diagnosis of checkpoints is not possible as requested, or its results cannot be read."""
