"""Errors about files on disk, in a module that is cheap to import."""

from hf_critmom.errors import InputError


class CheckpointError(InputError):
    """A checkpoint cannot be used; the message names the file or folder and says what is wrong with it."""
