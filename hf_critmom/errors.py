"""The error that the command line turns into one sentence."""


class InputError(ValueError):
    """Input that cannot be used; the message is one sentence: what was given, what was expected, what to do now."""
