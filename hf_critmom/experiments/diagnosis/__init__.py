"""Diagnosis: the ``attribute`` command, a study of checkpoints with controls."""
