"""Secrets in text: tokens, keys and passwords, found by their form, by the name before them, or because they are known.

Everything that keeps text of the user in a file passes it through `redact`; everything that publishes a file calls
`find_secrets` first.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

REDACTED = "REDACTED"
"""Stands where a secret stood; without characters that a shell, JSON, Markdown or HTML would quote."""


@dataclass(frozen=True)
class SecretKind:
    """A kind of secret that its form gives away.

    Attributes:
        description: What it is called in sentences.
        pattern: Matches it; where there is a group "secret", that part is the secret.
        condition: What a match must also satisfy.
    """

    description: str
    pattern: re.Pattern[str]
    condition: Callable[[re.Match[str]], bool] = lambda match: True

    def is_secret(self, match: re.Match[str]) -> bool:
        """Whether a match is a secret that was not redacted before."""
        return REDACTED not in match[0] and self.condition(match)

    def redacted(self, match: re.Match[str]) -> str:
        """The text of a match with its secret redacted."""
        if not self.is_secret(match):
            return match[0]
        start, end = match.span("secret") if "secret" in match.re.groupindex else match.span()
        return match.string[match.start() : start] + REDACTED + match.string[end : match.end()]


def _is_hub_token(match: re.Match[str]) -> bool:
    """Tokens are long, or mix digits, capitals and small letters; names such as hf_critmom are and do not."""
    letters = match["letters"]
    mixed = all(re.search(part, letters) for part in ("[a-z]", "[A-Z]", "[0-9]"))
    return len(letters) >= 16 or (mixed and len(letters) >= 8)


def _is_no_commit(match: re.Match[str]) -> bool:
    """A commit has 40 hexadecimal digits as well: the word before it decides."""
    before = match.string[max(0, match.start() - 40) : match.start()].lower()
    return re.search(r"(?:commit|revision|sha1?|oid|blob|tree|resolve|head|rev|hash|@)[^a-z0-9]{0,6}$", before) is None


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
        "a key of 40 hexadecimal digits, as Weights & Biases has them",
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
)
"""Secrets by their form; a new kind is a line."""


def redact(text: str, *, known: Collection[str] = (), sentence: bool = False) -> str:
    r"""A text with `REDACTED` in the place of everything that looks like a secret.

    Example:
        >>> print(redact('https://user:pass@host/x?api_key=abc12345 {"hub_token": "abc"}'))
        https://REDACTED@host/x?api_key=REDACTED {"hub_token": "REDACTED"}

    Args:
        text: The text.
        known: Secrets that are known as such; those of the command line (`declare_secrets`) and of the environment
            (``HF_TOKEN``, ``WANDB_API_KEY``, ...) are looked for anyway.
        sentence: Whether the text is a sentence, in which a name such as ``--token`` has words after it, not a value,
            unless an equals sign joins them.
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
    """What kinds of secrets a text seems to hold; the secrets themselves are never said.

    Example:
        >>> find_secrets("--hub_token abc1234 https://user:pass@host")
        ['credentials in a URL', 'a value of hub_token']

    Args:
        text: The text.
        known: See `redact`.
        names: Also look for values of names such as ``hub_token`` and ``password``; not in vocabularies and program
            text, where such a name means something else.

    Returns:
        Descriptions such as "a Hugging Face token", each once.
    """
    secrets = {*known, *_DECLARED, *environment_secrets()}
    found = ["a secret of this machine"] if any(secret in text for secret in secrets) else []
    found += [kind.description for kind in SECRET_KINDS if any(map(kind.is_secret, kind.pattern.finditer(text)))]
    if names:
        assigned = (match for match in _ASSIGNMENT.finditer(text) if _assigns_secret(match, among_sentences=True))
        found += [f"a value of {match['name'].lstrip('-')}" for match in assigned]
    return list(dict.fromkeys(found))


_DECLARED: set[str] = set()
SHORTEST_SECRET = 6
"""Characters of the shortest value that is looked for in other text: a shorter one could be any word."""


def declare_secrets(secrets: Iterable[str]) -> None:
    """Makes secrets known to `redact` and `find_secrets` that no form gives away, such as values of ``--hub_token``."""
    _DECLARED.update(secret for secret in secrets if len(secret) >= SHORTEST_SECRET)


@contextmanager
def declared_secrets(secrets: Iterable[str]) -> Iterator[None]:
    """While entered, secrets are known, and those that are declared within; forked processes know them, too."""
    before = set(_DECLARED)
    declare_secrets(secrets)
    try:
        yield
    finally:
        _DECLARED.intersection_update(before)


def environment_secrets() -> set[str]:
    """Values of environment variables whose names say that they are secret, such as ``HF_TOKEN``."""
    values = {value.strip() for name, value in os.environ.items() if is_secret_name(name)}
    return {value for value in values if re.fullmatch(r"(?![/~.])(?=.*[\d_-])[!-~]{8,}", value)}


def is_secret_name(name: str) -> bool:
    """Whether what goes by a name (of a flag, a variable, a key of JSON) is a secret.

    Example:
        >>> [is_secret_name(name) for name in ("hub_token", "WANDB_API_KEY", "dbPassword", "eos_token", "max_tokens")]
        [True, True, True, False, False]
    """
    normal = normal_name(name)
    return _SECRET_NAME.search(normal) is not None and _PUBLIC_NAME.search(normal) is None


def is_secret_value(value: Any) -> bool:
    """Whether a value could be a secret at all: no number, switch, variable or placeholder."""
    if not isinstance(value, str):
        return False
    bare = value.strip("\\\"'` ")
    is_placeholder = re.fullmatch(r"\$\{?\w+\}?|<[\w ]+>|\*+|\.{3}|%\w+%", bare) is not None
    return bare.lower() not in _SWITCHES and not is_placeholder


def normal_name(name: str) -> str:
    """A name in small letters, its words joined by underscores."""
    return re.sub(r"[.-]", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.lstrip("-"))).lower()


_SWITCHES = {"", "true", "false", "none", "null", "yes", "no", "auto", REDACTED.lower()}

_SECRET_NAME = re.compile(
    r"token$|(?:api|hub|hf|access|auth|refresh|bearer|session)_tokens$|keys?$|pass(?:word|wd|phrase|code)s?(?:_|$)"
    r"|(?:^|_)p(?:wd|ass)$|secrets?(?:_|$)|credentials?(?:_|$)|(?:^|_)auth(?:orization)?$|(?:^|_)cookies?$"
)
_PUBLIC_NAME = re.compile(
    # Special tokens of tokenizers, shares per token, and keys that name columns.
    r"(?:^|_)(?:bos|eos|pad|unk|sep|cls|mask|image|video|audio|boi|eoi|start|end|per|special|prefix|suffix|middle|stop"
    r"|newline|eot|eod)_token$|(?:^|_)(?:label|text|image|audio|video|sort|group|column|feature|target|primary|foreign"
    r"|dict|metric|input|output|sample|prompt|response|messages?|data|dataset|json|state|index|loss|field)_keys?$"
)
_COMMON_WORDS = {"key", "keys", "auth", "cookie", "cookies", "pass"}
"""Names that are secret as flags, but mean all sorts of things in JSON and in sentences."""

_ASSIGNMENT = re.compile(
    r"(?P<name>(?<![\w.-])(?:--)?(?=[a-z_])[\w.-]*?(?:token|key|cookie|auth|authorization|(?:password|passwd|passphrase"
    r"|passcode|pass|pwd|secret|credential)[\w.-]*)s?)(?=[\s:=\\\"'])"
    r"(?P<between>\\?[\"']?\s*[:=]\s*|(?<=\w)\s+)"
    r"(?P<value>\\?\"(?:[^\"\\\n]|\\[^\"\n])*\\?\"|'[^'\n]*'|\$\{\w+\}|[^\s,;&\"'`<>(){}\[\]|\\]+)",
    re.IGNORECASE,
)
"""``name=value``, ``"name": "value"``, ``name: value``, also with escaped quotes, and ``--name value``."""


def _assigns_secret(match: re.Match[str], *, among_sentences: bool = False) -> bool:
    """Whether an assignment gives a value to a secret.

    Args:
        match: Of `_ASSIGNMENT`.
        among_sentences: Whether a word and a colon may also be part of a sentence.
    """
    name, between, value = match["name"], match["between"], match["value"]
    if not is_secret_name(name) or not is_secret_value(value):
        return False
    normal, bare = normal_name(name), value.strip("\\\"'")
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
