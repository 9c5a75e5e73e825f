"""The error of pushing and pulling."""

from hf_critmom.errors import InputError


class HubError(InputError):
    """A push or a pull is not possible as requested, or the Hub refused it."""
