"""Errors about what is kept on disk, for those who raise them without reading files."""

from hf_critmom.errors import InputError


class CheckpointError(InputError):
    """A checkpoint that a run cannot be continued from; the message names the checkpoint and what is wrong with it."""
