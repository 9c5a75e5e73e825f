"""Loads datasets with `datasets`: from the Hub, or from exactly the folder that was named."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import fsspec

from hf_critmom.errors import root_message
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.paths import files_below, is_file, is_folder, is_pattern, literal_path

_OTHER_NAMES = {"valid": "validation", "val": "validation"}
_UNLISTED = ("readme", "license", "licence", "dataset_info", "dataset_dict", "thumbs.db", "desktop.ini")
"""Beginnings of the names of files that are not data."""


@contextmanager
def loaded_dataset(name: str, config: str | None, what: str, flag: str) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Loads the splits of a dataset, and notes on its parts that are not used.

    Files that the splits refer to exist only within the context.

    Args:
        name: A folder, or a name on the Hub.
        config: Configuration of the dataset, if it has several.
        what: What is loaded, for messages.
        flag: The other flag that names training data, for messages.

    Raises:
        TaskError: If the dataset cannot be loaded, or has no training split.
    """
    folder = Path(name)
    if is_file(folder):
        raise TaskError(f"{name} is a file: expected a folder, or the name of a dataset on the Hub; or use {flag}.")
    if not is_folder(folder):
        if is_pattern(name):
            raise TaskError(f"There is no folder {name}, and patterns of paths are not expanded: name one folder.")
        builder, splits = _built(name, name, config, what)
        if local := [file for file in _data_files(builder) if "://" not in file]:
            raise TaskError(
                f"{name!r} is not a dataset but a reader, which takes files of the current folder ({local[0]}): name a "
                "folder, or a dataset on the Hub."
            )
        used, notes = usual_splits(splits, name, flag)
        yield used, notes
        return
    with literal_path(folder) as path:
        builder, splits = _built(name, str(path), config, what)
        used, notes = usual_splits(splits, name, flag)
        if builder is not None:
            read = {Path(file) for file in _data_files(builder)}
            notes += left_out((file for file in files_below(path).files if file not in read), folder)
        yield used, notes


def left_out(files: Iterable[Path], folder: Path) -> list[str]:
    """A note on the files of a folder that are not read, counted by ending; none if all are."""
    endings = Counter(
        file.suffix.lower() or "no ending" for file in files if not file.name.lower().startswith(_UNLISTED)
    )
    if not endings:
        return []
    count = endings.total()
    listed = ", ".join(f"{ending}: {number:,}" for ending, number in endings.most_common(5))
    files_were = "files" if count > 1 else "file", "were" if count > 1 else "was"
    return [f"{count:,} other {files_were[0]} of folder {folder.resolve().name} {files_were[1]} not read ({listed})."]


def usual_splits(splits: Mapping[str, Any], name: str, flag: str) -> tuple[dict[str, Any], list[str]]:
    """The splits "train", "validation" and "test" of a dataset; "valid" and "val" are validation, too.

    Args:
        splits: The dataset's splits by name.
        name: The dataset's name, for messages.
        flag: The other flag that names training data, for messages.

    Returns:
        The splits that there are, in that order, and a note on others, which are not used.

    Raises:
        TaskError: If there is no training split, or there are two of one kind.
    """
    renamed: dict[str, Any] = {}
    for found, split in splits.items():
        usual = _OTHER_NAMES.get(found, found)
        if usual in renamed:
            raise TaskError(f"Dataset {name!r} has two splits for {usual} among {', '.join(splits)}: rename one.")
        renamed[usual] = split
    if "train" not in renamed:
        raise TaskError(
            f"Dataset {name!r} has no split named train, only {', '.join(splits)}: name a dataset with one, or use "
            f"{flag}."
        )
    used: dict[str, Any] = {split: renamed[split] for split in ("train", "validation", "test") if split in renamed}
    unused = [f"{split} ({len(renamed[split]):,} examples)" for split in renamed if split not in used]
    return used, [f"Not used: split {', '.join(unused)}."] if unused else []


def _built(name: str, path: str, config: str | None, what: str) -> tuple[Any, Mapping[str, Any]]:
    """The builder (None after ``save_to_disk``) and splits of a dataset; a text file is one text, not one per line."""
    mirrored = is_folder(path) and Path(path) != Path(name).resolve()
    options = {"cache_dir": str(Path(path).parent / "cache")} if mirrored else {}
    try:
        if is_file(Path(path) / "state.json") or is_file(Path(path) / "dataset_dict.json"):
            return None, _saved_to_disk(path)
        builder = datasets.load_dataset_builder(path, config, **options)
        if builder.info.builder_name == "text":
            builder = datasets.load_dataset_builder(path, config, sample_by="document", **options)
        if builder.info.builder_name == "json":
            _refuse_null_rows(_data_files(builder))
        builder.download_and_prepare()
        return builder, builder.as_dataset(in_memory=mirrored)
    except Exception as error:  # datasets raises whatever its readers raise; the message says what
        reason = root_message(error).replace(path, name)
        raise TaskError(
            f"No {what} could be loaded from {name!r} ({reason}): expected a known task, a folder that "
            "datasets.load_dataset reads, or the name of a dataset on the Hub."
        ) from error


def _refuse_null_rows(files: Iterable[str]) -> None:
    """Refuses JSON tables with a null row: Arrow's reader crashes if a block holds nothing else.

    Raises:
        TaskError: If there is such a row.
    """
    for file in files:
        if not is_file(file):  # on the Hub
            continue
        with fsspec.open(file, "rb", compression="infer") as rows:
            for number, row in enumerate(rows):
                if row.strip(b" \t\r\n\xef\xbb\xbf").startswith(b"null"):
                    raise TaskError(f"row {number} of {Path(file).name} is null: expected an object of columns")


def _saved_to_disk(path: str) -> Mapping[str, Any]:
    """What ``save_to_disk`` wrote: several splits, or one, which is then the training split."""
    saved = datasets.load_from_disk(path, keep_in_memory=True)
    return saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}


def _data_files(builder: Any) -> list[str]:
    """Paths or addresses of all files that a builder reads."""
    return [str(file) for files in (builder.config.data_files or {}).values() for file in files]
