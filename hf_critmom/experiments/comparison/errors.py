"""The error of this room."""

from hf_critmom.errors import InputError


class ComparisonError(InputError):
    """A comparison that cannot be made as requested."""
