"""The error of this room."""

from hf_critmom.errors import InputError


class AttributionError(InputError):
    """Gradients that cannot be attributed as requested, or a stored attribution that cannot be read."""
