"""The error of this room."""

from hf_critmom.errors import InputError


class DiagnosisError(InputError):
    """A diagnosis that cannot be made as it was asked for."""
