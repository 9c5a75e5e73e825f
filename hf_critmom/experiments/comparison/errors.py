"""The error that comparisons raise."""

from hf_critmom.errors import InputError


class ComparisonError(InputError):
    """A comparison that cannot be run, continued or reported as requested."""
