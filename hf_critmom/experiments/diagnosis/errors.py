"""The error of this experiment."""

from hf_critmom.errors import InputError


class DiagnosisError(InputError):
    """A diagnosis of checkpoints that cannot be made as requested, or whose results cannot be read."""
