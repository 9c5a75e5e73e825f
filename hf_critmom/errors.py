"""The error that the command line turns into one sentence, and how errors of other libraries are quoted in one."""

import struct

_GENERIC = ("An error occurred while generating the dataset", "Couldn't cast")
"""Beginnings of lines that say only that something failed."""
_TRANSPORT = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "socket", "ssl", "huggingface_hub")
"""Modules whose errors say how a connection failed; what was wanted of it stands in the error around them."""
_INTERNAL = (LookupError, AttributeError, ArithmeticError, AssertionError, EOFError, struct.error)
"""Errors that say what a program stumbled over rather than what is wrong with its input."""
_LONGEST = 300


class InputError(ValueError):
    """Input that cannot be used; the message is one sentence: what was given, what was expected, what to do now."""


def root_message(error: BaseException) -> str:
    """The most specific message of an error of another library, to be quoted in a sentence.

    Libraries wrap the error that says what is wrong (a byte that is not UTF-8, a row that is too long) in one that
    says only where it happened, so the chain of ``__cause__`` is followed to its innermost informative message, and
    ``__context__`` where none of these is. An `InputError` is a sentence already and ends the search. Errors of
    connections and such as a missing key are quoted only where no error around them says more.

    Args:
        error: The error that was caught.

    Returns:
        One line without a full stop; the error's type where no message says anything.
    """
    for chain in (_chain(error, contexts=False), _chain(error, contexts=True)):
        lines = [(link, line) for link in chain if (line := _informative_line(link))]
        specific = [line for link, line in lines if not (_is_transport(link) or isinstance(link, _INTERNAL))]
        if lines:
            return _quotable(specific[-1] if specific else lines[0][1])
    text = str(error).strip()
    return _quotable(f"{type(error).__name__}: {text.splitlines()[0]}") if text else type(error).__name__


def _chain(error: BaseException, contexts: bool) -> list[BaseException]:
    """An error and those that it was raised from, the outermost first."""
    chain = [error]
    while not isinstance(chain[-1], InputError):
        last = chain[-1]
        inner = last.__cause__
        if inner is None and contexts and not last.__suppress_context__:
            inner = last.__context__
        if inner is None or inner in chain:
            break
        chain.append(inner)
    return chain


def _informative_line(error: BaseException) -> str | None:
    """The first line of a message that says more than a name, joined to the next where it ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith(_GENERIC):
        lines = lines[1:] if lines[0].startswith(_GENERIC[0]) else []
    if not lines:
        return None
    line = f"{lines[0]} {lines[1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    return line if " " in line or isinstance(error, InputError) else None


def _is_transport(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in _TRANSPORT or isinstance(error, ConnectionError | TimeoutError)


def _quotable(line: str) -> str:
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return (line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ...").strip().rstrip(".:")
