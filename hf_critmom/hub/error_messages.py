"""Translates the exceptions of huggingface_hub into sentences."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from hf_critmom.errors import InputError
from hf_critmom.hub.errors import HubError
from hf_critmom.hub.session import TRANSIENT, InvalidURL, RetriesExhausted, TimeoutException
from hf_critmom.storage.redaction import redact

_AGAIN = "repeat the command later, which uploads only what is missing"
_REFUSALS = {
    401: "{hub} does not accept the token ({said}): create one with write access in the settings of your account, and "
    "pass it by hf auth login, HF_TOKEN or --token.",
    403: "{user} may not write to {target} with this token ({said}): use a token that may, or choose another REPO_ID.",
    404: "{hub} has no place for {target} ({said}): choose another REPO_ID, --repo_type or --revision.",
}
"""Sentences for refusals by the Hub, by status; others are below."""
_NO_HUB = f"{{hub}} gave an answer that no Hub gives ({{said}}): check HF_ENDPOINT, and {_AGAIN}."
_WRONG_SHAPE = (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, IndexError)
_LONGEST = 300


@contextmanager
def translate_hub_errors(api: HfApi, user: str = "", repository: object = None) -> Iterator[None]:
    """Turns the exceptions of huggingface_hub into one sentence.

    These are `HTTPError` from requests, `OSError` from files and in offline mode, `RuntimeError` around any failure of
    an upload, `ValueError` for a card that the Hub refuses, and these or others for answers that no Hub gives.

    Args:
        api: The client.
        user: Name of the user; empty while it is unknown.
        repository: The target of the push; None while the user signs in.

    Raises:
        HubError: In place of these exceptions.
    """
    try:
        yield
    except InputError:
        raise
    except (HTTPError, InvalidURL, OSError, RetriesExhausted, RuntimeError, ValueError, *_WRONG_SHAPE) as error:
        cause: BaseException = error
        while isinstance(cause, RuntimeError | RetriesExhausted) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, InputError):
            raise cause from error
        names = {"hub": redact(api.endpoint), "user": user or "The user", "target": repository or "anything"}
        said = redact(hub_message(cause), known={str(api.token)} if api.token else ())
        raise HubError(_sentence(cause, signing_in=repository is None).format(**names, said=said)) from error


def _sentence(error: BaseException, *, signing_in: bool) -> str:
    """The sentence for an error, with placeholders for the Hub, its message, the user and the repository."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status >= 500 or status in TRANSIENT:
            return f"{{hub}} did not take the push ({{said}}): {_AGAIN}."
        if signing_in:
            return _REFUSALS[401] if status in (401, 403) else _NO_HUB
        return _REFUSALS.get(status, "{hub} refuses the push to {target} ({said}): change that and repeat the command.")
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE keeps this machine from reaching {hub}: unset it, or use --dry_run."
    if isinstance(error, TimeoutException):
        return f"{{hub}} did not answer in time ({{said}}): check the network and HF_ENDPOINT, and {_AGAIN}."
    if isinstance(error, HTTPError | InvalidURL):
        return f"{{hub}} cannot be reached, or hung up ({{said}}): check the network and HF_ENDPOINT, and {_AGAIN}."
    if str(error).startswith("Invalid metadata"):
        return "{hub} does not accept the card ({said}): nothing was pushed; please report what was compared."
    if isinstance(error, _WRONG_SHAPE) or (isinstance(error, ValueError) and not isinstance(error, OSError)):
        return _NO_HUB
    return f"The push to {{hub}} failed ({{said}}): {_AGAIN}."


def hub_message(error: BaseException) -> str:
    """The message of the Hub or the client for an error, in one line without a full stop."""
    if isinstance(error, HfHubHTTPError):
        text = f"{error.response.status_code} {error.server_message or error.response.reason_phrase}"
    elif isinstance(error, KeyError):
        text = f"it lacks {error}"
    else:
        text = str(error) or type(error).__name__
    if isinstance(error, TimeoutException) and isinstance(error, HTTPError):
        with suppress(RuntimeError):  # an error without a request
            text = f"{error.request.method} {error.request.url.path}: {text}"
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return (line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ...").rstrip(".")
