"""What the Hub of the tests keeps: repositories with their commits and files."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Stored:
    """A file of a commit."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        if not self.lfs:
            return git_oid(self.content)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return git_oid(pointer.encode())

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_id

    def entry(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "file", "path": path, "size": len(self.content), "oid": self.blob_id}
        if self.lfs:
            found["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return found


@dataclass(frozen=True)
class Commit:
    """A state of a repository."""

    message: str
    files: dict[str, Stored]
    parent: str | None = None

    @property
    def oid(self) -> str:
        listed = {path: file.sha256 for path, file in self.files.items()}
        return hashlib.sha1(json.dumps([self.message, self.parent, listed], sort_keys=True).encode()).hexdigest()


@dataclass
class Repository:
    """A repository with its commits, oldest first, of each branch."""

    private: bool
    sdk: str | None = None
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return {path: file.content for path, file in self.branches[branch][-1].files.items()}

    def messages(self, branch: str = "main") -> list[str]:
        return [commit.message for commit in self.branches[branch]]

    def at(self, revision: str) -> Commit | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        commits = (commit for branch in self.branches.values() for commit in branch)
        return next((commit for commit in commits if commit.oid == revision), None)
