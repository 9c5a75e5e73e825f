"""What the programs that fetch data share: a folder of data appears complete and verified, or not at all."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class PreparationError(Exception):
    """Data cannot be prepared; the message is one sentence for the person who typed the command."""


def parse_arguments(argv: list[str] | None, description: str, sources: str) -> tuple[str, Path]:
    """Parses the command line into the source and the absolute path of the output folder.

    Args:
        argv: Command-line arguments; ``sys.argv[1:]`` by default.
        description: What the program does.
        sources: The kinds of sources, for ``--help``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--source", required=True, metavar=sources, help="where to read the data from")
    parser.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="new folder to write to")
    arguments = parser.parse_args(argv)
    return arguments.source, arguments.output_dir.expanduser().resolve()


def is_prepared(output_dir: Path, pattern: str, verify: Callable[[], None]) -> bool:
    """Whether a folder holds a complete copy of the data; False if it does not exist or is empty.

    Args:
        output_dir: The folder.
        pattern: Glob pattern that some of its files match if it is a copy.
        verify: Raises `PreparationError` if the copy is not complete.

    Raises:
        PreparationError: If the folder holds anything else.
    """
    if not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return False
    if not any(output_dir.glob(pattern)):
        raise PreparationError(
            f"--output_dir {output_dir} exists and holds something else: name a new or empty folder; nothing was "
            "overwritten."
        )
    try:
        verify()
    except (PreparationError, UnicodeDecodeError) as error:
        raise PreparationError(
            f"--output_dir {output_dir} exists but failed its check: delete it if it is a copy that this script wrote, "
            f"or name another folder; nothing was overwritten. ({error})"
        ) from error
    return True


@contextmanager
def scratch_folder(output_dir: Path) -> Iterator[Path]:
    """Yields a temporary folder beside the output folder; its folder ``prepared`` then becomes the output folder."""
    prefix = f".{output_dir.name}.partial-"
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    for leftover in output_dir.parent.glob(f"{prefix}*"):
        print(f"{leftover} is left over from an earlier run: delete it, unless that run is still going on.")
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=prefix, ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)
        if output_dir.exists():  # empty, as is_prepared checked
            output_dir.rmdir()
        Path(scratch, "prepared").rename(output_dir)


def run(program: str, output_dir: Path, prepare: Callable[[], str], *, hint: str = "") -> int:
    """Prepares data, and prints a message or the error in one sentence.

    Args:
        program: Name of the program.
        output_dir: The output folder.
        prepare: Prepares the data, and returns the message.
        hint: What the output folder needs, to end the sentence if it cannot be written.

    Returns:
        The exit status.
    """
    try:
        print(prepare())
        return 0
    except PreparationError as error:
        message = str(error)
    except OSError as error:
        message = f"--output_dir {output_dir} cannot be written ({error}): choose a folder that you can write to{hint}."
    except KeyboardInterrupt:
        message = "interrupted; nothing was written."
    print(f"{program}: {message}", file=sys.stderr)
    return 1
