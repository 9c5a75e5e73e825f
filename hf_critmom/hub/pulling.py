"""Pulls a comparison from a repository on the Hub."""

import re
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    OIDCError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars

from hf_critmom.experiments.comparison.plan import PLAN_FILE
from hf_critmom.experiments.comparison.records import DRIFT_FILE
from hf_critmom.experiments.comparison.results import RESULT_FILE
from hf_critmom.hub.error_messages import hub_message
from hf_critmom.hub.errors import HubError
from hf_critmom.hub.files import MODEL_FILES
from hf_critmom.hub.repository import Repository
from hf_critmom.hub.session import InvalidURL, RetriesExhausted, patient_session
from hf_critmom.storage.redaction import redact

_SCHEME = "hf://"
_ADDRESS = re.compile(
    r"hf://(?:(?P<type>datasets|spaces|models)/)?(?P<name>(?!(?:datasets|spaces|models)/)[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>[^@]+))?/?"
)
_PATTERNS = (
    PLAN_FILE,
    *(f"runs/**/{name}" for name in (RESULT_FILE, DRIFT_FILE, "*.safetensors", *sorted(MODEL_FILES))),
)
"""Files of a comparison, except those that are rebuilt from them."""


def is_repository(source: str) -> bool:
    """Whether ``source`` names a repository on the Hub rather than a folder."""
    return source.startswith(_SCHEME)


def pull_comparison(address: str, folder: Path, *, token: str | None = None) -> Path:
    """Downloads the plan and the runs of a published comparison.

    Args:
        address: The repository: ``hf://datasets/OWNER/NAME``, ``hf://OWNER/NAME`` for a model repository, with
            ``@REVISION`` for a branch or commit.
        folder: The folder to download to.
        token: An access token; default: that of this machine.

    Returns:
        The folder.

    Raises:
        HubError: If the repository does not exist or holds no comparison, or the Hub cannot be reached.
    """
    repository = _parse(address)
    api = HfApi(token=token or None)
    disable_progress_bars()
    try:
        with patient_session():
            snapshot_download(
                **repository.address,
                endpoint=api.endpoint,
                revision=repository.revision,
                local_dir=folder,
                allow_patterns=list(_PATTERNS),
                token=token or None,
                max_workers=4,
            )
    except (HTTPError, InvalidURL, OSError, RetriesExhausted, RuntimeError, ValueError, KeyError, TypeError) as error:
        cause: BaseException = error
        while not isinstance(cause, HTTPError) and cause.__cause__ is not None:
            cause = cause.__cause__
        known = {secret for secret in (token, _stored_token()) if secret}
        raise HubError(
            _sentence(cause, address, redact(api.endpoint), redact(hub_message(cause), known=known))
        ) from error
    if not (folder / PLAN_FILE).exists():
        raise HubError(f"{address} holds no comparison: expected a repository with a {PLAN_FILE}.")
    return folder


def _parse(address: str) -> Repository:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise HubError(
            f"{address!r} names no repository: write hf://datasets/OWNER/NAME, and @REVISION after it for a branch."
        )
    repository = Repository(match["name"], (match["type"] or "models").removesuffix("s"), match["revision"])
    repository.check()
    return repository


def _sentence(error: BaseException, address: str, hub: str, said: str) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE keeps this machine from reaching {hub}: unset it, or name folders."
    if isinstance(error, GatedRepoError):
        return f"{address} is gated, and this token has no access ({said}): request it on its page on {hub}."
    if isinstance(error, RevisionNotFoundError):
        return f"{address} has no such revision ({said}): name one of its branches, or leave @REVISION out."
    if isinstance(error, RepositoryNotFoundError) or (
        isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404)
    ):
        return (
            f"{hub} shows no {address} to this token ({said}): check owner, name and kind, such as hf://datasets/, or "
            "give a token that may read it."
        )
    if isinstance(error, HTTPError | InvalidURL | LocalEntryNotFoundError):
        return (
            f"{address} could not be pulled from {hub} ({said}): check the network and HF_ENDPOINT, and repeat the "
            "command."
        )
    return f"{address} could not be pulled from {hub} ({said}): repeat the command."


def _stored_token() -> str | None:
    with suppress(OIDCError):
        return get_token()
    return None
