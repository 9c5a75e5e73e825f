"""The error of this room."""


class ComparisonError(ValueError):
    """A comparison that cannot be made; the message is one sentence for the person who typed the command."""
