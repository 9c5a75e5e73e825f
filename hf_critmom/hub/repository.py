"""Repositories on the Hub that a comparison is pushed to or pulled from."""

import re
from dataclasses import dataclass, replace
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_critmom.hub.errors import HubError

REPO_TYPES = {"model": "model", "dataset": "dataset", "space": "Space"}
"""Types of repositories that can hold a comparison, with their names in sentences."""


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub.

    Attributes:
        repo_id: NAMESPACE/NAME, or NAME for the user's own namespace.
        repo_type: A key of `REPO_TYPES`.
        revision: Branch; None for the main one.
    """

    repo_id: str
    repo_type: str = "model"
    revision: str | None = None

    def __str__(self) -> str:
        branch = f" (revision {self.revision})" if self.revision else ""
        return f"the {REPO_TYPES[self.repo_type]} repository {self.repo_id}{branch}"

    @property
    def address(self) -> dict[str, Any]:
        """The repository as keyword arguments of huggingface_hub's functions."""
        return {"repo_id": self.repo_id, "repo_type": self.repo_type}

    @property
    def url(self) -> str:
        """The repository's page on the Hub at ``HF_ENDPOINT``."""
        prefix = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"{HfApi().endpoint}/{prefix}{self.repo_id}"

    def owned_by(self, user: str) -> "Repository":
        """The repository, in the user's namespace if it names none."""
        return self if "/" in self.repo_id else replace(self, repo_id=f"{user}/{self.repo_id}")

    def check(self) -> None:
        """Refuses names that no repository or branch can have.

        Raises:
            HubError: If the name or the revision is impossible.
        """
        if not is_repo_id(self.repo_id):
            raise HubError(
                f"{self.repo_id!r} cannot name a repository: write NAMESPACE/NAME, each of letters, digits, '-', "
                "'_' and '.', at most 96 characters."
            )
        if self.revision is not None and not is_branch_name(self.revision):
            raise HubError(
                f"--revision {self.revision!r} cannot name a branch: write letters, digits, '-', '_', '.' and '/', "
                "such as trial-2, or leave it out for the main one."
            )


def is_repo_id(name: str) -> bool:
    """Whether the Hub could have a repository of this name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_branch_name(name: str) -> bool:
    """Whether git accepts a name for a branch, and commands, addresses and cards need no quotes around it.

    Example:
        >>> [is_branch_name(name) for name in ("main", "refs/pr/1", "v1.0", "", "a b", "a..b", "-x", "a'b", "x.lock")]
        [True, True, True, False, False, False, False, False, False]
    """
    parts = name.split("/")
    return (
        len(name) <= 200
        and name != "HEAD"
        and all(re.fullmatch(r"[A-Za-z0-9_][\w.+-]*", part, re.ASCII) for part in parts)
        and not any(".." in part or part.endswith((".", ".lock")) for part in parts)
    )
