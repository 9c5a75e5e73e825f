"""The last check before publishing: paths are shortened, and a secret stops the push."""

import io
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from hf_critmom.experiments.comparison.plan import PLAN_FILE
from hf_critmom.hub.errors import HubError
from hf_critmom.storage.recorded_commands import recorded_path, shorten_paths
from hf_critmom.storage.redaction import find_secrets
from hf_critmom.storage.run_folder import RESULT_FILE

_TEXT = (".md", ".json", ".yaml", ".txt", ".html", ".svg", ".jinja", ".bpe", ".model", ".spm")
_DERIVED = (".md", ".yaml", ".html", ".svg", ".parquet")
_PROGRAM_TEXT = (".html", ".svg", ".jinja")
_CLASS_NAMES = ("id2label", "label2id", "label_names")
_PATH_NAME = re.compile(r"(?:path|file|dir|folder|argument)s?$")
_VOCABULARIES = re.compile(r"(?:tokenizer|vocab|added_tokens|merges|normalizer)\.\w+|.*\.(?:model|spm|bpe)")


def publishable(files: Mapping[str, bytes | Path], *, known: Collection[str] = ()) -> dict[str, bytes | Path]:
    """The files with absolute paths in their text shortened; refuses files that hold a secret.

    Args:
        files: Contents, or the files that hold them, by path in the repository.
        known: Known secrets, such as the token of the push.

    Raises:
        HubError: If a file seems to hold a secret; the message names file and kind, never the secret.
    """
    checked = {path: _without_paths(path, content) for path, content in files.items()}
    # Cards and pages repeat records, so records are checked and named first.
    for path in sorted(checked, key=lambda path: (path.endswith(_DERIVED), path)):
        names = not (path.endswith(_PROGRAM_TEXT) or _VOCABULARIES.fullmatch(path))
        for text in _texts(path, checked[path]):
            if kinds := find_secrets(text, known=known, names=names):
                raise HubError(
                    f"{path} holds what looks like {' and '.join(kinds)}, so nothing was pushed: replace it there, "
                    "revoke it if anybody else may have seen it, and repeat the command."
                )
    return checked


def check_message(message: str, *, known: Collection[str] = ()) -> None:
    """Refuses a commit message that holds a secret.

    Raises:
        HubError: If it seems to hold one.
    """
    if kinds := find_secrets(message, known=known):
        raise HubError(f"--message holds what looks like {' and '.join(kinds)}: say what is pushed without it.")


def _without_paths(path: str, content: bytes | Path) -> bytes | Path:
    """A file's content with the paths in its text shortened; unchanged if it is not text or holds none."""
    if not path.endswith(_TEXT) or _VOCABULARIES.fullmatch(path):
        return content
    text = _decoded(content if isinstance(content, bytes) else content.read_bytes())
    if path.endswith(".json") and (values := _json(text)) is not None:
        public = _public_values(path, _shortened(values))
        return content if public == values else (json.dumps(public, indent=2) + "\n").encode()
    shortened = shorten_paths(text, home_only=path.endswith(_PROGRAM_TEXT))
    return content if shortened == text else shortened.encode("utf-8", errors="surrogateescape")


def _json(text: str) -> Any:
    """The value that a JSON file holds; None if it is not JSON."""
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    return None


def _shortened(value: Any, name: str = "") -> Any:
    """A JSON value with the paths in its strings shortened.

    Names of classes stay, because a model's outputs are known by them, and some look like paths, as ``/m/0a`` does.

    Args:
        value: The value.
        name: Its key; by that, a path may have spaces.
    """
    if name in _CLASS_NAMES:
        return value
    if isinstance(value, dict):
        return {key: _shortened(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item, name) for item in value]
    if not isinstance(value, str):
        return value
    is_path = _PATH_NAME.search(name) is not None and re.match(r"/|~|[A-Za-z]:\\", value) is not None
    return recorded_path(value) if is_path else shorten_paths(value)


def _public_values(path: str, values: Any) -> Any:
    """The values of a plan or a result without those that are private."""
    if path == PLAN_FILE:
        return _public_plan(values)
    return _public_result(values) if path.rpartition("/")[2] == RESULT_FILE else values


def _public_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan in which data outside the comparison's folder is named only by the last part of its path."""
    arguments = plan.get("arguments") or {}
    public = {group: {name: _public_argument(value) for name, value in of.items()} for group, of in arguments.items()}
    return plan if public == arguments else {**plan, "arguments": public}


def _public_result(result: dict[str, Any]) -> dict[str, Any]:
    """A result without the name of the machine that made it, which is private."""
    load = result.get("load")
    if not isinstance(load, dict) or not load.get("node"):
        return result
    return {**result, "load": {**load, "node": None}}


def _public_argument(value: Any) -> Any:
    leaves = isinstance(value, str) and value.startswith("../")
    return PurePosixPath(value).name if leaves else value


def _texts(path: str, content: bytes | Path) -> Iterator[str]:
    """Texts in a file: all of it, the string columns of a table, or the metadata of weights."""
    if path.endswith(_TEXT):
        yield _decoded(content if isinstance(content, bytes) else content.read_bytes())
    elif path.endswith(".parquet"):
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        table = pq.read_table(source)
        yield "\n".join(str(table.schema.metadata or "").splitlines())
        for column in table.columns:
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                yield "\n".join(value for value in column.unique().to_pylist() if value is not None)
    elif path.endswith(".safetensors") and isinstance(content, Path):
        try:
            with safe_open(content, framework="pt") as weights:
                yield json.dumps(weights.metadata() or {})
        except SafetensorError as error:
            raise HubError(f"{content} has no readable weights ({error}): remove it, or choose another run.") from None


def _decoded(content: bytes) -> str:
    """Bytes as text; invalid UTF-8 is kept by surrogate escapes."""
    return content.decode("utf-8", errors="surrogateescape")
