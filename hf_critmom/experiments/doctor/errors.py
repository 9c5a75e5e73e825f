"""The error of this package."""

from hf_critmom.errors import InputError


class DoctorError(InputError):
    """A training cannot be examined; the message says what is missing or damaged."""
