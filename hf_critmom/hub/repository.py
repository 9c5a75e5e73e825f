"""Where a comparison goes."""

from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

REPO_TYPES = {"model": "model", "dataset": "data set"}
"""Kinds of repositories that take a comparison, and what they are called in sentences."""


@dataclass(frozen=True)
class Repository:
    """Where a comparison goes.

    Attributes:
        repo_id: Name, with its namespace.
        repo_type: A key of `REPO_TYPES`.
        revision: Branch; None: the main one.
    """

    repo_id: str
    repo_type: str = "model"
    revision: str | None = None

    def __str__(self) -> str:
        branch = f" (revision {self.revision})" if self.revision else ""
        return f"the {REPO_TYPES[self.repo_type]} repository {self.repo_id}{branch}"

    @property
    def address(self) -> dict[str, Any]:
        """How huggingface_hub's functions are told which repository is meant."""
        return {"repo_id": self.repo_id, "repo_type": self.repo_type}


def is_repo_id(name: str) -> bool:
    """Whether the Hub could have a repository of this name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
