"""Pushes a comparison: in one commit, which arrives completely or not at all."""

import importlib.metadata
import re
import time
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OIDCError, RevisionNotFoundError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison.plan import PLAN_FILE, Plan
from hf_critmom.experiments.diagnosis.results import RESULTS_FILE
from hf_critmom.experiments.repair.plan import PLAN
from hf_critmom.hub import session
from hf_critmom.hub.cards import with_space_link
from hf_critmom.hub.error_messages import translate_hub_errors
from hf_critmom.hub.errors import HubError
from hf_critmom.hub.files import CARD_FILE
from hf_critmom.hub.repository import REPO_TYPES, Repository
from hf_critmom.hub.upload import PushOptions, Upload, prepare_upload
from hf_critmom.tasks.paths import is_file


@dataclass(frozen=True)
class Pushed:
    """Result of a push.

    Attributes:
        url: Page of the commit that holds the files.
        changed: Whether there was anything new to commit.
        notes: Sentences for the user who pushed.
    """

    url: str
    changed: bool
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Hub:
    """A Hub to which the user has signed in.

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
    **options: Any,
) -> tuple[Upload, Pushed | None]:
    """Pushes a comparison to the Hub at ``HF_ENDPOINT``.

    Args:
        folder: A comparison's folder, finished or not; it is only read.
        repository: The target; a name without a namespace is placed in that of the token's user.
        private: Create the repository as a private one.
        dry_run: Only prepare and check the upload, without network.
        token: An access token; default: that of this machine, from ``HF_TOKEN`` or ``hf auth login``.
        options: Fields of `PushOptions`.

    Returns:
        The upload, and the result of the push (None for a dry run).

    Raises:
        HubError: If something requested does not exist, the comparison holds a secret, or the Hub cannot be reached,
            refuses or fails.
        ComparisonError: If the folder holds no comparison, or no run of it has finished.
    """
    repository.check()
    PushOptions(**options).check(repository)
    _read_plan(folder)  # before a token is needed
    if dry_run:
        return prepare_upload(folder, repository, known_secrets=_secrets(token), **options), None
    with session.patient_session():
        hub = sign_in(token)
        repository = repository.owned_by(hub.user)
        linked = _find_linked(hub, repository)
        upload = prepare_upload(folder, repository, linked=linked, known_secrets=_secrets(hub.api.token), **options)
        pushed = push_upload(hub, upload, private=private)
        if repository.repo_type == "space" and linked is not None:
            note = _link_to_space(hub, linked, repository)
            pushed = replace(pushed, notes=[*pushed.notes, note])
    return upload, pushed


def _read_plan(folder: Path) -> Plan:
    """The plan of a comparison.

    Raises:
        HubError: If the folder holds another experiment.
        ComparisonError: If the folder holds no comparison.
    """
    for kind, file in (("an attribution", RESULTS_FILE), ("a repair", PLAN.name)):
        if is_file(folder / file) and not is_file(folder / PLAN_FILE):
            raise HubError(
                f"{folder} holds {kind}, and push publishes comparisons: look through the folder, and publish it with "
                "hf upload REPO_ID DIR."
            )
    return Plan.read(folder)


def sign_in(token: str | None = None) -> Hub:
    """Finds the token, and asks the Hub for its user.

    Raises:
        HubError: If there is no token, or the Hub does not accept it or cannot be reached.
    """
    if token is not None and not token.strip():
        raise HubError("--token is empty: give an access token, or leave it out for HF_TOKEN or hf auth login.")
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
        raise HubError("The token has characters that no token has: copy it again from your account settings.")
    with session.patient_session(), translate_hub_errors(api):
        user = api.whoami()["name"]
        if not isinstance(user, str) or not re.fullmatch(r"[\w.-]+", user, re.ASCII):
            raise KeyError("the name of the token's user")
    return Hub(api, user)


def push_upload(hub: Hub, upload: Upload, *, private: bool = False) -> Pushed:
    """Commits files to a repository, which is created if necessary: all of them arrive, or none.

    Files that the repository has already are not uploaded again; if nothing is new, nothing is committed.

    Raises:
        HubError: If the Hub cannot be reached, refuses or fails, or files of something else would be replaced.
    """
    api, repository = hub.api, upload.repository
    with session.patient_session(), translate_hub_errors(api, hub.user, repository):
        before = _find_or_create(api, repository, private=private)
        stored = [str(sibling.rfilename) for sibling in getattr(before, "siblings", None) or ()]
        replaced = [path for path in stored if path in upload.files and path != CARD_FILE]
        if replaced and not _holds_comparison(api, repository, stored):
            raise HubError(
                f"{repository} holds {', '.join(replaced)} of something else, which this push would replace: choose "
                "another REPO_ID, give a new branch with --revision, or delete them there if nobody needs them."
            )
        commit = _commit(api, upload)
    notes = [
        f"{repository.repo_id} also holds {path}, which is not part of this push: delete it if nobody needs it."
        for path in stored
        if re.fullmatch(r"[^/]*\.safetensors", path) and path not in upload.files
    ]
    return Pushed(commit.commit_url, before is None or commit.oid != before.sha, notes)


def _secrets(token: Any) -> set[str]:
    """Secrets of the user, which must not be pushed."""
    try:
        stored = get_token()
    except OIDCError:  # sign_in reports it
        stored = None
    return {str(secret).strip() for secret in (token, stored) if secret and len(str(secret).strip()) >= 8}


def _find_or_create(api: HfApi, repository: Repository, *, private: bool) -> Any:
    """Creates missing repository and branch; returns the Hub's info on them from before, or None."""
    found = _info(api, repository)
    if found is None:
        sdk = "static" if repository.repo_type == "space" else None
        try:
            api.create_repo(**repository.address, private=private or None, space_sdk=sdk)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:  # it exists, unless a repository of another type has the name
                raise
            for other in REPO_TYPES.keys() - {repository.repo_type}:
                if _info(api, Repository(repository.repo_id, other)) is not None:
                    raise HubError(
                        f"{repository.repo_id} is a {REPO_TYPES[other]} repository: give --repo_type {other}, or "
                        "choose another REPO_ID."
                    ) from error
    elif private and found.private is not True:
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
    """The Hub's info on a repository; None if there is none that the token may see."""
    try:
        return api.repo_info(**repository.address)
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 404):
            return None
        raise


def _commit(api: HfApi, upload: Upload) -> CommitInfo:
    """Commits everything at once, and retries while the Hub neither accepts nor refuses the commit.

    `patient_session` retries all other requests. Every attempt first compares with what the repository has, so a commit
    whose answer was lost is not made twice.
    """
    failed = 0
    while True:
        try:
            with warnings.catch_warnings():
                # Tables of results are meant to be committed.
                warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
                return api.create_commit(
                    operations=[CommitOperationAdd(path, content) for path, content in upload.files.items()],
                    commit_message=upload.message,
                    revision=upload.repository.revision,
                    **upload.repository.address,
                )
        except HTTPError as error:
            answer = error.response if isinstance(error, HfHubHTTPError) else None
            is_refusal = answer is not None and answer.status_code not in session.TRANSIENT
            request = error.request if answer is None else answer.request
            if is_refusal or "/commit/" not in request.url.path:
                raise
            failed += 1
            if (wait := session.seconds_to_wait(failed, error)) is None:
                raise
            session.announce_retry(request, error, wait)
            time.sleep(wait)


def _read_card(api: HfApi, repository: Repository) -> str:
    """The card that a repository has now."""
    address = f"{repository.url}/resolve/{quote(repository.revision or 'main', safe='')}/{CARD_FILE}"
    response = get_session().get(address, headers=build_hf_headers(token=api.token))
    hf_raise_for_status(response)
    return response.content.decode(errors="replace")


def _holds_comparison(api: HfApi, repository: Repository, stored: Collection[str]) -> bool:
    """Whether a repository with these files was filled by this program; a Space has no plan, but our card."""
    return PLAN_FILE in stored or (CARD_FILE in stored and _is_ours(_read_card(api, repository)))


def _is_ours(card: str) -> bool:
    """Whether a card was pushed by this program."""
    return "hf-critmom" in card


def _find_linked(hub: Hub, repository: Repository) -> Repository | None:
    """The repository of the same name to link to, if the Hub has it: a model's Space, or a Space's model."""
    other = Repository(repository.repo_id, "model" if repository.repo_type == "space" else "space")
    with session.patient_session(), translate_hub_errors(hub.api, hub.user, other):
        return None if _info(hub.api, other) is None else other


def _link_to_space(hub: Hub, model: Repository, space: Repository) -> str:
    """Adds a link to the Space to the card of a model that was pushed before; returns the outcome in a sentence."""
    api = hub.api
    again = f"push {model.repo_id} again, for its card to link here"
    try:
        with session.patient_session(), translate_hub_errors(api, hub.user, model):
            if CARD_FILE not in [sibling.rfilename for sibling in _info(api, model).siblings or ()]:
                return f"The model repository {model.repo_id} has no card yet: {again}."
            card = _read_card(api, model)
            linked = with_space_link(card, space)
            if not _is_ours(card):
                return (
                    f"The card of the model repository {model.repo_id} is not from hf-critmom, and was left unchanged."
                )
            if linked != card:
                _commit(api, Upload(model, {CARD_FILE: linked.encode()}, "Link to the Space"))
    except HubError as error:
        return f"The card of {model.repo_id} could not be linked here ({error}): {again}."
    return f"The card of the model repository {model.repo_id} links here."
