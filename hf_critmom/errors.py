"""The error that the command line turns into one sentence."""


class InputError(ValueError):
    """Input that cannot be used; the message is one sentence: what was given, what was expected, what to do now."""


def reason(error: BaseException) -> str:
    """What somebody else's error says, to be quoted in a sentence: its first line, without a full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
