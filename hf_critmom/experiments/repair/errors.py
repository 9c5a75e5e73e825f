"""The error of this experiment."""

from hf_critmom.errors import InputError


class RepairError(InputError):
    """A repair is not possible as requested, or its results cannot be read."""
