"""The errors of tasks."""

from hf_critmom.errors import InputError


class TaskError(InputError):
    """Data or a model that cannot be used."""
