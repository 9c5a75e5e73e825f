"""The error of this experiment."""

from hf_critmom.errors import InputError


class RepairError(InputError):
    """A repair that cannot be made as requested, or whose results cannot be read."""
