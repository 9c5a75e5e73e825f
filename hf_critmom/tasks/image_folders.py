"""Folders of images: which files are images, of which class and split each is, and what is left out.

A split is a folder with one subfolder per class, whose images lie directly in it; or a folder with a table
``metadata.csv``, ``metadata.jsonl`` or ``metadata.parquet`` whose column ``file_name`` lists images and whose other
columns describe them. A dataset is a folder with a folder for each split, or a single split.
"""

import dataclasses
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets
from huggingface_hub import DatasetCard
from PIL import Image

from hf_critmom.errors import root_message
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.loading import left_out
from hf_critmom.tasks.paths import files_below
from hf_critmom.tasks.tables import read_table

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in the names of split folders, the same as in `datasets`."""
_STUBS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF")
"""Formats that Pillow only identifies, or that are not raster images."""
_UNREADABLE = (
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".svg", ".eps", ".wmf", ".emf", ".exr", ".hdr", ".dcm"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".webp", ".tif", ".tiff"),
)
"""Endings of images that cannot be read, unless this Pillow lists them among those that it opens."""


@dataclass(frozen=True)
class _Contents:
    """Files of a folder by kind."""

    folder: Path
    images: tuple[Path, ...]
    metadata: tuple[Path, ...]
    others: tuple[Path, ...]

    @property
    def by_folder(self) -> dict[str, list[Path]]:
        """Images by the subfolder that holds them; those directly in the folder have an empty name."""
        found: dict[str, list[Path]] = defaultdict(list)
        for image in self.images:
            parts = image.relative_to(self.folder).parts
            found[parts[0] if len(parts) > 1 else ""].append(image)
        return dict(found)


def is_image_folder(folder: Path) -> bool:
    """Whether a folder holds image files, rather than tables or a dataset whose card describes its files."""
    files = files_below(folder).files
    tables = [file for file in files if file.suffix.lower() in (".parquet", ".arrow") and file.name not in _METADATA]
    images = [file for file in files if _is_image(file) or file.suffix.lower() in _UNREADABLE]
    return bool(images) and not tables and not _describes_its_files(folder)


def read_image_folder(folder: Path) -> tuple[dict[str, datasets.Dataset], list[str]]:
    """The splits of an image folder, with columns ``image`` and ``label`` or those of its metadata, and notes.

    Raises:
        TaskError: If it is unclear which folders are classes or splits, or images cannot be read.
    """
    contents = _unwrapped(_contents(folder))
    folder, found = contents.folder, contents.by_folder
    splits: dict[str, list[str]] = defaultdict(list)
    for name in found:
        if (split := _split_of(name)) is not None:
            splits[split].append(name)
    if not splits:
        return read_split_folders({"train": folder})
    if same := next((names for names in splits.values() if len(names) > 1), None):
        raise TaskError(
            f"{folder} has {' and '.join(same)}, which could both be one split: remove one, or name the folders with "
            "--train_dir, --validation_dir and --test_dir."
        )
    folders = {split: folder / names[0] for split, names in splits.items()}
    loose = [
        place.name
        for place in folders.values()
        if not any(file.parent == place for file in contents.metadata)
        and all(image.parent == place for image in found[place.name])
    ]
    if loose:
        raise TaskError(
            f"{folder / loose[0]} holds images directly, and the folder of a split needs one subfolder per class: add "
            f"those; or, if the folders ({', '.join(sorted(filter(None, found)))}) are classes, give "
            f"--train_dir {folder}."
        )
    if "train" not in folders:
        raise TaskError(
            f"Dataset {str(folder)!r} has no split named train, only {', '.join(folders)}: name a dataset with one, "
            "or use --train_dir."
        )
    if beside := [file for file in contents.metadata if file.parent == folder]:
        raise TaskError(f"{beside[0]} lies beside the folders of the splits: put a table of its own into each of them.")
    beside_splits = [file for file in contents.others if not any(map(file.is_relative_to, folders.values()))]
    notes = left_out(beside_splits, folder)
    unused = {name: images for name, images in found.items() if _split_of(name) is None}
    if unused:
        count, names = sum(map(len, unused.values())), ", ".join(name or "the folder itself" for name in unused)
        notes.append(f"{count:,} image{'s' if count > 1 else ''} in no split's folder are not used ({names}).")
    read, more = read_split_folders({split: folders[split] for split in _SPLIT_WORDS if split in folders})
    return read, [*notes, *more]


def read_split_folders(folders: Mapping[str, Path]) -> tuple[dict[str, datasets.Dataset], list[str]]:
    """Reads image folders that are one split each, as `read_image_folder` does.

    Args:
        folders: The folders by split; the classes are those of all splits together.

    Raises:
        TaskError: As `read_image_folder`.
    """
    contents = {split: _contents(folder) for split, folder in folders.items()}
    notes: list[str] = []
    if any(found.metadata for found in contents.values()):
        splits = {}
        for split, found in contents.items():
            splits[split], more = _listed_images(found)
            notes += more
        return splits, notes
    classes: dict[str, list[tuple[str, Path]]] = {}
    for split, found in contents.items():
        classes[split], more = _classified_images(found)
        notes += more
    names = sorted({name for pairs in classes.values() for name, _ in pairs})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    splits = {
        split: datasets.Dataset.from_dict(
            {"image": [str(path) for _, path in pairs], "label": [name for name, _ in pairs]}, features=features
        )
        for split, pairs in classes.items()
    }
    return splits, notes


def _contents(folder: Path) -> _Contents:
    """The files of a folder by kind; refuses images that cannot be read."""
    found = files_below(folder)
    if found.broken:
        raise TaskError(
            f"{_counted(found.broken, 'link')} in {folder} lead nowhere ({found.broken[0].name}): restore what they "
            "lead to, or remove them."
        )
    if odd := [file for file in found.files if not str(file).isprintable() or not _is_utf8(str(file))]:
        raise TaskError(f"The name of {str(odd[0])!a} has unprintable characters: rename it.")
    images, metadata, others, unreadable = [], [], [], []
    for file in found.files:
        if _is_image(file):
            images.append(file)
        elif file.suffix.lower() in _UNREADABLE:
            unreadable.append(file)
        elif file.name in _METADATA:
            metadata.append(file)
        else:
            others.append(file)
    if unreadable:
        endings = ", ".join(sorted({file.suffix.lower() for file in unreadable}))
        raise TaskError(
            f"{_counted(unreadable, 'image')} in {folder} cannot be read here ({endings}, such as "
            f"{unreadable[0].name}): convert them to PNG or JPEG, or remove them."
        )
    if not images:
        held = ", ".join(sorted({file.suffix.lower() or file.name for file in others})[:5])
        raise TaskError(
            f"{folder} holds no image{held and f', only {held}'}: expected images, in one subfolder per class; unpack "
            "archives first."
        )
    return _Contents(folder, tuple(images), tuple(metadata), tuple(others))


def _classified_images(contents: _Contents) -> tuple[list[tuple[str, Path]], list[str]]:
    """The images of a split with a folder per class, each with its class; and notes."""
    root = _unwrapped(contents).folder
    found = dataclasses.replace(contents, folder=root).by_folder
    loose = found.pop("", [])
    if not found:
        raise TaskError(
            f"{contents.folder} holds {_counted(loose, 'image')} and no class folder, so there is no column that "
            "could hold the labels: put the images into one subfolder per class, or list them in a metadata.csv with "
            "columns file_name and label (or another one, named by --label_column_name)."
        )
    nested = [image for images in found.values() for image in images if image.parent.parent != root]
    if nested:
        if len([name for name in found if _split_of(name)]) == len(found):
            raise TaskError(
                f"{contents.folder} holds the splits {', '.join(found)} rather than classes: name the folder with "
                f"--task, or one of the splits, such as {root / next(iter(found))}."
            )
        raise TaskError(
            f"{_counted(nested, 'image')} in {contents.folder} lie deeper than one class folder (such as "
            f"{nested[0].relative_to(root)}), so it is not clear which of the folders is the class: keep one folder "
            "per class, with its images directly in it."
        )
    notes = left_out(contents.others, contents.folder)
    if loose:
        notes.append(
            f"{_counted(loose, 'image')} of folder {contents.folder.resolve().name} outside its class folders "
            f"{'are' if len(loose) > 1 else 'is'} not used ({loose[0].name})."
        )
    empty = [child.name for child in _folders_in(root) if child.name not in found]
    if empty:
        notes.append(f"Not a class, because it holds no image: folder {', '.join(empty)}.")
    return [(image.parent.name, image) for images in found.values() for image in images], notes


def _unwrapped(contents: _Contents) -> _Contents:
    """The contents without outer folders that hold nothing but one folder of image folders."""
    found = contents.by_folder
    if len(found) != 1 or "" in found or contents.metadata or len(_folders_in(contents.folder)) != 1:
        return contents
    (name,) = found
    inner = contents.folder / name
    if _split_of(name) is not None or any(image.parent == inner for image in contents.images):
        return contents
    return _unwrapped(dataclasses.replace(contents, folder=inner))


def _listed_images(contents: _Contents) -> tuple[datasets.Dataset, list[str]]:
    """The images that the metadata of a split lists, with its other columns, and notes."""
    if not contents.metadata:
        raise TaskError(f"{contents.folder} has no metadata, but another split has: list its images in the same way.")
    tables, listed = [], []
    for file in contents.metadata:
        if len(same := [other for other in contents.metadata if other.parent == file.parent]) > 1:
            raise TaskError(f"{file.parent} has both {' and '.join(other.name for other in same)}: keep one.")
        table = read_table(file)
        if "file_name" not in table.column_names:
            raise TaskError(
                f"{file} has no column file_name, only {', '.join(table.column_names)}: expected the names of the "
                "images in such a column."
            )
        paths = [file.parent / str(name) for name in table["file_name"]]
        if missing := [path for path in paths if not path.is_file()]:
            raise TaskError(
                f"{file} lists {_counted(missing, 'image')} that do not exist (such as "
                f"{missing[0].relative_to(file.parent)}): supply them, or remove their rows."
            )
        listed += paths
        tables.append(table)
    try:
        table = datasets.concatenate_datasets(tables)
    except ValueError as error:
        raise TaskError(
            f"The metadata files in {contents.folder} do not fit together ({root_message(error)}): give each column "
            "the same type in all of them."
        ) from error
    if "image" in table.column_names:
        raise TaskError(f"{contents.metadata[0]} has a column image beside file_name: rename it.")
    table = table.add_column("image", [str(path) for path in listed]).remove_columns("file_name")
    table = table.cast_column("image", datasets.Image())
    notes = left_out(contents.others, contents.folder)
    known = {path.resolve() for path in listed}
    if unlisted := [image for image in contents.images if image.resolve() not in known]:
        notes.append(
            f"{_counted(unlisted, 'image')} of folder {contents.folder.resolve().name} that its metadata does not list "
            f"{'are' if len(unlisted) > 1 else 'is'} not used ({unlisted[0].name})."
        )
    return table, notes


def _describes_its_files(folder: Path) -> bool:
    """Whether a dataset's card says which files belong to which split."""
    card = folder / "README.md"
    if (folder / ".huggingface.yaml").exists():
        return True
    if not card.is_file():
        return False
    try:
        return bool(DatasetCard.load(card).data.to_dict().get("configs"))
    except Exception:  # a README that is not a card describes nothing
        return False


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in _image_suffixes()


@functools.cache
def _image_suffixes() -> frozenset[str]:
    """File name endings of the images that this Pillow opens."""
    Image.init()
    formats = Image.registered_extensions()
    return frozenset(end for end, name in formats.items() if name in Image.OPEN and name not in _STUBS)


def _split_of(name: str) -> str | None:
    """The split that a folder's name ("train", "my-train", "Test 2") means; None if it means none or several."""
    words = re.split(r"[-._ 0-9]+", name.lower())
    found = [split for split, known in _SPLIT_WORDS.items() if set(known) & set(words)]
    return found[0] if len(found) == 1 else None


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _folders_in(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith((".", "__")))


def _counted(items: Iterable[object], noun: str) -> str:
    count = len(list(items))
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
