"""Pushing: one commit, which arrives whole or not at all."""

import importlib.metadata
import re
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OIDCError, RevisionNotFoundError
from transformers.utils import logging

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.hub.refusals import TRANSIENT, HubError, in_words, said_by
from hf_critmom.hub.repository import REPO_TYPES, Repository, is_repo_id
from hf_critmom.hub.upload import Upload, prepare_upload

logger = logging.get_logger(__name__)

COMMIT_WAITS = (1.0, 3.0, 9.0)
"""Seconds before each further attempt of a commit that was answered neither with yes nor with no."""


@dataclass(frozen=True)
class Pushed:
    """What came of a push.

    Attributes:
        url: Page of the commit that holds the files.
        changed: Whether there was anything new to commit.
        notes: Sentences that whoever pushed should read.
    """

    url: str
    changed: bool
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Hub:
    """A Hub to which somebody has signed in.

    Attributes:
        api: The client, with the token.
        user: Name of the user.
    """

    api: HfApi
    user: str


def push_comparison(
    folder: Path,
    repository: Repository,
    *,
    private: bool = False,
    dry_run: bool = False,
    token: str | None = None,
    **choices: Any,
) -> tuple[Upload, Pushed | None]:
    """Pushes a comparison to the Hub that huggingface_hub is set to (``HF_ENDPOINT``).

    Args:
        folder: A comparison's folder, finished or not; it is only read.
        repository: Where to; a name without a namespace is taken into that of the token's user.
        private: Create the repository as a private one.
        dry_run: Only prepare and check what would be pushed, without network.
        token: An access token; default: the one of this machine, from ``HF_TOKEN`` or ``hf auth login``.
        choices: What else `prepare_upload` takes.

    Returns:
        What is brought, and what came of it (None of a dry run).

    Raises:
        HubError: If something asked for is not there, or the Hub cannot be reached, refuses or fails.
        ComparisonError: If the folder holds no comparison, or no run of it has finished.
    """
    if not is_repo_id(repository.repo_id):
        raise HubError(
            f"{repository.repo_id!r} cannot name a repository: write NAMESPACE/NAME, each of letters, digits, '-', "
            "'_' and '.', 96 characters at most."
        )
    Plan.read(folder)  # before anybody is asked for a token
    if dry_run:
        return prepare_upload(folder, repository, **choices), None
    hub = sign_in(token)
    if "/" not in repository.repo_id:
        repository = Repository(f"{hub.user}/{repository.repo_id}", repository.repo_type, repository.revision)
    upload = prepare_upload(folder, repository, **choices)
    return upload, push_upload(hub, upload, private=private)


def sign_in(token: str | None = None) -> Hub:
    """Finds the token, and asks the Hub whose it is.

    Raises:
        HubError: If there is no token, the Hub does not know it, or cannot be reached.
    """
    try:
        found = (token or get_token() or "").strip()
    except OIDCError as error:
        raise HubError(
            f"No token was exchanged ({root_message(error)}): unset HF_OIDC_RESOURCE or give --token."
        ) from error
    version = importlib.metadata.version("hf-critmom")
    api = HfApi(token=found, library_name="hf-critmom", library_version=version)
    if not found:
        raise HubError(f"There is no token for {api.endpoint}: run hf auth login, set HF_TOKEN or give --token.")
    if not re.fullmatch("[!-~]+", found):
        raise HubError("The token has characters that no token has: copy it anew from the settings of your account.")
    with in_words(api):
        return Hub(api, str(api.whoami()["name"]))


def push_upload(hub: Hub, upload: Upload, *, private: bool = False) -> Pushed:
    """Brings files to a repository, which is created if need be, in one commit: all of them arrive, or none.

    What the repository has already is not uploaded again, and if that is all, nothing is committed.

    Raises:
        HubError: If the Hub cannot be reached, refuses or fails.
    """
    api, repository = hub.api, upload.repository
    with in_words(api, hub.user, repository):
        before = _settled(api, repository, private=private)
        commit = _commit(api, upload)
    stored = [sibling.rfilename for sibling in getattr(before, "siblings", None) or ()]
    notes = [
        f"{repository.repo_id} also holds {path}, which is not of this push: delete it if nobody needs it."
        for path in stored
        if re.fullmatch(r"[^/]*\.safetensors", path) and path not in upload.files
    ]
    return Pushed(commit.commit_url, before is None or commit.oid != before.sha, notes)


def _settled(api: HfApi, repository: Repository, *, private: bool) -> Any:
    """Creates repository and branch where they are missing; what the Hub knew of them before, None if nothing."""
    found = _info(api, repository)
    if found is None:
        try:
            api.create_repo(**repository.address, private=private or None)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:  # it is there, unless another type has taken the name
                raise
            for other in REPO_TYPES.keys() - {repository.repo_type}:
                if _info(api, Repository(repository.repo_id, other)) is not None:
                    raise HubError(
                        f"{repository.repo_id} is a {REPO_TYPES[other]} repository: give --repo_type {other}, or "
                        "choose another REPO_ID."
                    ) from error
    elif private and found.private is False:
        raise HubError(
            f"{repository.repo_id} exists and is public, which --private does not change: make it private in its "
            "settings, choose another REPO_ID, or leave --private out."
        )
    if repository.revision is not None:
        try:
            return api.repo_info(**repository.address, revision=repository.revision)
        except RevisionNotFoundError:
            api.create_branch(**repository.address, branch=repository.revision, exist_ok=True)
            return None
    return found


def _info(api: HfApi, repository: Repository) -> Any:
    """What the Hub knows of a repository; None if there is none that the token may see."""
    try:
        return api.repo_info(**repository.address)
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 404):
            return None
        raise


def _commit(api: HfApi, upload: Upload) -> CommitInfo:
    """Commits everything at once, again and again while the commit is not answered with yes or no.

    The client repeats its other requests by itself. Every attempt asks anew what the repository has, so a commit that
    was made although its answer was lost is not made twice.
    """
    waits = iter(COMMIT_WAITS)
    while True:
        try:
            with warnings.catch_warnings():
                # Tables of results are meant to be there.
                warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
                return api.create_commit(
                    operations=[CommitOperationAdd(path, content) for path, content in upload.files.items()],
                    commit_message=upload.message,
                    revision=upload.repository.revision,
                    **upload.repository.address,
                )
        except HTTPError as error:
            answer = error.response if isinstance(error, HfHubHTTPError) else None
            is_refusal = answer is not None and answer.status_code not in TRANSIENT
            request = error.request if answer is None else answer.request
            if is_refusal or "/commit/" not in request.url.path or (wait := next(waits, None)) is None:
                raise
            logger.warning(f"The commit was not taken ({said_by(error)}): it is tried again in {wait:g} s.")
            time.sleep(wait)
