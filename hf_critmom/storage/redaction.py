"""Secrets in text: tokens, keys and passwords, found by their form, by the name before them, or because they are known.

Whatever stores text from the user in a file passes it through `redact`; whatever publishes a file calls `find_secrets`
first.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

REDACTED = "REDACTED"
"""Replaces a secret; has no characters that a shell, JSON, Markdown or HTML would quote."""


@dataclass(frozen=True)
class SecretKind:
    """A kind of secret that is recognisable by its form.

    Attributes:
        description: Noun phrase for messages.
        pattern: Matches the secret, or more than it if the secret is the group "secret".
        condition: Whether a match is really a secret.
    """

    description: str
    pattern: re.Pattern[str]
    condition: Callable[[re.Match[str]], bool] = lambda match: True

    def is_secret(self, match: re.Match[str]) -> bool:
        """Whether a match is a secret that is not redacted yet."""
        return REDACTED not in match[0] and self.condition(match)

    def redacted(self, match: re.Match[str]) -> str:
        """The text of a match, with the secret redacted."""
        if not self.is_secret(match):
            return match[0]
        start, end = match.span("secret") if "secret" in match.re.groupindex else match.span()
        return match.string[match.start() : start] + REDACTED + match.string[end : match.end()]


def _is_hub_token(match: re.Match[str]) -> bool:
    """Tokens are long, or mix digits, upper and lower case, unlike names such as hf_critmom."""
    letters = match["letters"]
    mixed = all(re.search(part, letters) for part in ("[a-z]", "[A-Z]", "[0-9]"))
    return len(letters) >= 16 or (mixed and len(letters) >= 8)


def _is_no_commit(match: re.Match[str]) -> bool:
    """A commit hash has 40 hexadecimal digits, too: the word before it decides."""
    before = match.string[max(0, match.start() - 40) : match.start()].lower()
    return re.search(r"(?:commit|revision|sha1?|oid|blob|tree|resolve|head|rev|hash|@)[^a-z0-9]{0,6}$", before) is None


_QUOTE = r"\\?[\"']?"
_SCHEME = r"(?:bearer|basic|token|apikey|negotiate)\\?\s+"
"""Scheme before the secret in a header, such as ``Authorization: Bearer SECRET``."""

_COOKIE = r"[^\s=;\"'\\()]+"

SECRET_KINDS: tuple[SecretKind, ...] = (
    SecretKind(
        "credentials in a URL",
        re.compile(r"(?:[A-Za-z][\w+.-]*://|(?:https?|hf|git|ssh|ftp):/)(?P<secret>[^/\s@\"'<>]+)@(?=[\w\[])"),
    ),
    SecretKind(
        "a Hugging Face token",
        re.compile(r"(?<![A-Za-z0-9])(?:hf|api_org)_(?:oauth_|jwt_)?(?P<letters>[A-Za-z0-9]{8,})[\w-]*"),
        _is_hub_token,
    ),
    SecretKind(
        "a key of 40 hexadecimal digits, such as one of Weights & Biases",
        re.compile(r"(?<![A-Za-z0-9/_])(?:local-)?[0-9a-f]{40}(?![A-Za-z0-9])"),
        _is_no_commit,
    ),
    SecretKind("a Weights & Biases key", re.compile(r"(?<![A-Za-z0-9])wandb_v\d+_\w{20,}")),
    SecretKind("a GitHub token", re.compile(r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})")),
    SecretKind("a GitLab token", re.compile(r"(?<![A-Za-z0-9])glpat-[\w-]{20,}")),
    SecretKind("an API key", re.compile(r"(?<![A-Za-z0-9])sk-(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{20,}")),
    SecretKind("a Google API key", re.compile(r"(?<![A-Za-z0-9])AIza[\w-]{35}")),
    SecretKind("an AWS access key", re.compile(r"(?<![A-Za-z0-9])A[KS]IA[0-9A-Z]{16}(?![A-Za-z0-9])")),
    SecretKind("a Slack token", re.compile(r"(?<![A-Za-z0-9])xox[abeoprs]-[\w-]{10,}")),
    SecretKind("a package registry's token", re.compile(r"(?<![A-Za-z0-9])(?:npm_[A-Za-z0-9]{36}|pypi-[\w-]{40,})")),
    SecretKind("a JSON web token", re.compile(r"(?<![A-Za-z0-9])eyJ[\w+/=-]{16,}(?:\.[\w-]+){0,2}")),
    SecretKind(
        "a private key",
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.*?-----END [A-Z ]*PRIVATE KEY-----|.*)", re.DOTALL),
    ),
    SecretKind(
        "an Authorization header",
        re.compile(r"\b(?:bearer|basic)\s+(?P<secret>(?=[\w.~+/=-]*\d)[\w.~+/=-]{16,})", re.IGNORECASE),
    ),
    SecretKind(  # by its name, whatever it looks like, also in a sentence
        "a header with a secret",
        re.compile(
            rf"(?:auth(?:orization)?{_QUOTE}\s*[:=]\s*{_QUOTE}{_SCHEME}"
            rf"|(?<![\w-])x-[\w-]*(?:key|token|secret|auth){_QUOTE}\s*:\s*{_QUOTE})(?P<secret>[^\s,;\"'\\]+)",
            re.IGNORECASE,
        ),
        lambda match: is_secret_value(match["secret"]),
    ),
    SecretKind(
        "a cookie",
        re.compile(
            rf"cookie{_QUOTE}\s*:\s*{_QUOTE}(?P<secret>{_COOKIE}=[^\s;\"'\\()]+(?:;\s*{_COOKIE}(?:=[^\s;\"'\\()]+)?)*)",
            re.IGNORECASE,
        ),
    ),
    SecretKind(
        "a signature in a URL",
        re.compile(r"[?&](?:x-(?:amz|goog)-)?sig(?:nature)?=(?P<secret>[^\s&\"'<>]+)", re.IGNORECASE),
    ),
)
"""Kinds of secrets; a new kind is one more entry."""


def redact(text: str, *, known: Collection[str] = (), sentence: bool = False) -> str:
    r"""Replaces everything in a text that looks like a secret by `REDACTED`.

    Example:
        >>> print(redact('https://user:pass@host/x?api_key=abc12345 {"hub_token": "abc"}'))
        https://REDACTED@host/x?api_key=REDACTED {"hub_token": "REDACTED"}

    Args:
        text: The text.
        known: Further known secrets, besides those of the command line (`declare_secrets`) and of the environment
            (``HF_TOKEN``, ``WANDB_API_KEY``, ...).
        sentence: Whether the text is a sentence, in which a name such as ``--token`` is followed by the next word
            rather than by a value, unless there is an equals sign between them.
    """
    for secret in sorted({*known, *_DECLARED, *environment_secrets()}, key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    for kind in SECRET_KINDS:
        text = kind.pattern.sub(kind.redacted, text)

    def replaced(match: re.Match[str]) -> str:
        is_value = not sentence or "=" in match["between"] or re.search(r"[\"']\s*:", match["between"]) is not None
        return _redacted(match) if is_value and _assigns_secret(match) else match[0]

    return _ASSIGNMENT.sub(replaced, text)


def find_secrets(text: str, *, known: Collection[str] = (), names: bool = True) -> list[str]:
    """Describes the kinds of secrets that a text seems to hold, without quoting them.

    Example:
        >>> find_secrets("--hub_token abc1234 https://user:pass@host")
        ['credentials in a URL', 'a value of hub_token']

    Args:
        text: The text.
        known: See `redact`.
        names: Whether to look for values after names such as ``hub_token`` and ``password``, too. These mean something
            else in vocabularies and source code.

    Returns:
        Distinct descriptions, such as "a Hugging Face token".
    """
    secrets = {*known, *_DECLARED, *environment_secrets()}
    found = ["a known secret"] if any(secret in text for secret in secrets) else []
    found += [kind.description for kind in SECRET_KINDS if any(map(kind.is_secret, kind.pattern.finditer(text)))]
    if names:
        assigned = (match for match in _ASSIGNMENT.finditer(text) if _assigns_secret(match, among_sentences=True))
        found += [f"a value of {match['name'].lstrip('-')}" for match in assigned]
    return list(dict.fromkeys(found))


_DECLARED: set[str] = set()
MIN_SECRET_LENGTH = 6
"""Length of the shortest value that is searched for in other text: a shorter one could be any word."""


def declare_secrets(secrets: Iterable[str]) -> None:
    """Makes secrets without a recognisable form, such as values of ``--hub_token``, known to this module."""
    _DECLARED.update(secret for secret in secrets if len(secret) >= MIN_SECRET_LENGTH)


@contextmanager
def declared_secrets(secrets: Iterable[str]) -> Iterator[None]:
    """Declares secrets until the end of the context, where all that were declared inside of it are forgotten, too."""
    before = set(_DECLARED)
    declare_secrets(secrets)
    try:
        yield
    finally:
        _DECLARED.intersection_update(before)


def environment_secrets() -> set[str]:
    """Values of environment variables with secret names, such as ``HF_TOKEN``."""
    values = {value.strip() for name, value in os.environ.items() if is_secret_name(name)}
    return {value for value in values if re.fullmatch(r"(?![/~.])(?=.*[\d_-])[!-~]{8,}", value)}


def is_secret_name(name: str) -> bool:
    """Whether the value of a flag, a variable or a JSON key of this name is a secret.

    Example:
        >>> [is_secret_name(name) for name in ("hub_token", "WANDB_API_KEY", "dbPassword", "eos_token", "max_tokens")]
        [True, True, True, False, False]
    """
    normal = normalize_name(name)
    return _SECRET_NAME.search(normal) is not None and _PUBLIC_NAME.search(normal) is None


def is_secret_value(value: Any) -> bool:
    """Whether a value can be a secret at all, rather than a number, a switch, a variable or a placeholder."""
    if not isinstance(value, str):
        return False
    bare = re.sub(rf"^{_SCHEME}", "", value.strip("\\\"'` "), flags=re.IGNORECASE)
    is_placeholder = re.fullmatch(r"\$\{?\w+\}?|<[\w ]+>|\*+|\.{3}|%\w+%", bare) is not None
    return bare.lower() not in _SWITCHES and not is_placeholder


def normalize_name(name: str) -> str:
    """Converts a name to snake case."""
    return re.sub(r"[.-]", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.lstrip("-"))).lower()


_SWITCHES = {"", "true", "false", "none", "null", "yes", "no", "auto", REDACTED.lower()}

_SECRET_NAME = re.compile(
    r"token$|(?:api|hub|hf|access|auth|refresh|bearer|session)_tokens$|keys?$|pass(?:word|wd|phrase|code)s?(?:_|$)"
    r"|(?:^|_)p(?:wd|ass)$|secrets?(?:_|$)|credentials?(?:_|$)|(?:^|_)auth(?:orization)?$|(?:^|_)cookies?$"
)
_PUBLIC_NAME = re.compile(
    # Special tokens of tokenizers, rates per token, and keys that name columns.
    r"(?:^|_)(?:bos|eos|pad|unk|sep|cls|mask|image|video|audio|boi|eoi|start|end|per|special|prefix|suffix|middle|stop"
    r"|newline|eot|eod)_token$|(?:^|_)(?:label|text|image|audio|video|sort|group|column|feature|target|primary|foreign"
    r"|dict|metric|input|output|sample|prompt|response|messages?|data|dataset|json|state|index|loss|field)_keys?$"
)
_COMMON_WORDS = {"key", "keys", "auth", "cookie", "cookies", "pass"}
"""Names that are secret as flags, but have many other meanings in JSON and in sentences."""

_ASSIGNMENT = re.compile(
    r"(?P<name>(?<![\w.-])(?:--)?(?=[a-z_])[\w.-]*?(?:token|key|cookie|auth|authorization|(?:password|passwd|passphrase"
    r"|passcode|pass|pwd|secret|credential)[\w.-]*)s?)(?=[\s:=\\\"'])"
    r"(?P<between>\\?[\"']?\s*[:=]\s*|(?<=\w)\s+)"
    rf"(?P<value>\\?\"(?:[^\"\\\n]|\\[^\"\n])*\\?\"|'[^'\n]*'|\$\{{\w+\}}|(?:{_SCHEME})?"
    r"[^\s,;&\"'`<>(){}\[\]|\\]+)",
    re.IGNORECASE,
)
"""``name=value``, ``"name": "value"``, ``name: value``, all with escaped quotes or not, and ``--name value``."""


def _assigns_secret(match: re.Match[str], *, among_sentences: bool = False) -> bool:
    """Whether an assignment gives a value to a secret.

    Args:
        match: A match of `_ASSIGNMENT`.
        among_sentences: Whether a word followed by a colon may be part of a sentence.
    """
    name, between, value = match["name"], match["between"], match["value"]
    if not is_secret_name(name) or not is_secret_value(value):
        return False
    normal, bare = normalize_name(name), value.strip("\\\"'")
    if not between.strip():  # words in a row, unless the first is a flag
        return name.startswith("--") and not value.startswith("--")
    if name.startswith("--"):
        return True
    if normal in _COMMON_WORDS:
        return False
    if re.fullmatch(r"[+-]?[\d.]+(?:[eE][+-]?\d+)?", bare) and re.search("pass|pwd|secret", normal) is None:
        return False
    is_sentence = among_sentences and "_" not in normal and bare == value and re.fullmatch(r":\s+", between) is not None
    return not is_sentence or re.search(r"[0-9A-Z_]", bare[1:]) is not None


def _redacted(match: re.Match[str]) -> str:
    value = match["value"]
    quote = re.match(r"\\?[\"']|", value)
    assert quote is not None  # it may be empty
    return f"{match['name']}{match['between']}{quote[0]}{REDACTED}{quote[0]}"
