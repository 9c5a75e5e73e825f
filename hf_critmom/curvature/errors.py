"""The error of this room."""

from hf_critmom.errors import InputError


class CurvatureError(InputError):
    """A curvature or noise scale that cannot be measured as requested."""
