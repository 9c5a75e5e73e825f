"""The error of a push."""

from hf_critmom.errors import InputError


class HubError(InputError):
    """A push that cannot be made as it was requested, or that the Hub did not take."""
