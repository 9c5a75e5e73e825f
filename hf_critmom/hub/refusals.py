"""The error of this room, and what huggingface_hub raises in words."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from hf_critmom.errors import InputError

TRANSIENT = {408, 412, 429, 500, 502, 503, 504}
"""Statuses of answers that are neither yes nor no. 412: somebody else's commit came between."""

_AGAIN = "repeat the command later, which uploads only what is missing"
_REFUSALS = {
    401: "{hub} does not accept the token ({said}): make one with the right to write in the settings of your account, "
    "and pass it on by hf auth login, HF_TOKEN or --token.",
    403: "{user} may not write to {target} with this token ({said}): use one that may, or choose another REPO_ID.",
    404: "{hub} has no place for {target} ({said}): choose another REPO_ID, --repo_type or --revision.",
}
"""Sentences for the Hub's answers by status; the others are below."""


class HubError(InputError):
    """A push that cannot be made as it was asked for, or that the Hub did not take."""


@contextmanager
def in_words(api: HfApi, user: str = "", repository: object = None) -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence.

    That is `HTTPError` of requests, `OSError` of files and of offline mode, `RuntimeError` around whatever an upload
    failed of, `ValueError` of a card that the Hub refuses, and that or `KeyError` of answers that no Hub gives.
    """
    try:
        yield
    except InputError:
        raise
    except (HTTPError, KeyError, OSError, RuntimeError, ValueError) as error:
        cause: BaseException = error
        while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
            cause = cause.__cause__
        words = {"hub": api.endpoint, "said": said_by(cause), "user": user or "The user", "target": repository or "it"}
        raise HubError(_sentence(cause).format(**words)) from error


def _sentence(error: BaseException) -> str:
    """The sentence for an error, with places for the Hub, what was said, the user and the repository."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status >= 500 or status in TRANSIENT:
            return f"{{hub}} did not take the push ({{said}}): {_AGAIN}."
        return _REFUSALS.get(status, "{hub} refuses the push to {target} ({said}): change that and repeat the command.")
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE keeps this machine from asking {hub}: unset it, or use --dry_run."
    if isinstance(error, HTTPError):
        return f"{{hub}} cannot be reached, or broke off ({{said}}): check the network and HF_ENDPOINT, and {_AGAIN}."
    if str(error).startswith("Invalid metadata"):
        return "{hub} does not accept the card ({said}): nothing was pushed; please report what was compared."
    if isinstance(error, (json.JSONDecodeError, KeyError)):
        return f"{{hub}} gave an answer that no Hub gives ({{said}}): check HF_ENDPOINT, and {_AGAIN}."
    return f"The push to {{hub}} failed ({{said}}): {_AGAIN}."


def said_by(error: BaseException) -> str:
    """What the Hub or the client says of an error, in one line without a full stop."""
    if isinstance(error, HfHubHTTPError):
        words = f"{error.response.status_code} {error.server_message or error.response.reason_phrase}"
    else:
        words = str(error) or type(error).__name__
    return " ".join(words.split()).rstrip(".")
