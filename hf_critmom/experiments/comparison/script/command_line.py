"""A script and its arguments: the values that the user gave to flags, and the command of a run.

Arguments are on the command line, or all of them in one JSON or YAML file, as `HfArgumentParser` reads it; TRL's
``--config FILE`` gives values that the command line overrides.
"""

import ast
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.storage.digest import files_digest
from hf_critmom.storage.files import read_text
from hf_critmom.storage.recorded_commands import recorded_arguments, recorded_value, secret_arguments, secret_values
from hf_critmom.storage.redaction import declare_secrets, redact

REFUSED = {
    "push_to_hub": "every run would be pushed; hf-critmom push DIR REPO_ID pushes the finished comparison",
    "resume_from_checkpoint": "runs resume by themselves if the script supports it",
}
"""Flags of a script that a comparison refuses, with the reason."""


@dataclass(frozen=True)
class Script:
    """A training script with its arguments, as the command line names it.

    Attributes:
        path: The script's file; None for a module.
        module: The module that is run as a script; None for a file.
        arguments: The script's arguments.
        launcher: Launcher of its processes, such as ``torchrun --nproc_per_node 2``; empty for plain Python.
    """

    path: str | None = None
    module: str | None = None
    arguments: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the script, for tasks and folders."""
        return Path(self.path).stem if self.path is not None else str(self.module)

    @property
    def title(self) -> str:
        """Name of the script in messages."""
        return Path(self.path).name if self.path is not None else f"-m {self.module}"

    def check(self) -> None:
        """Checks what can be checked without running the script, and declares the secrets among its arguments.

        Raises:
            ComparisonError: If the script does not exist or is not Python, or its arguments cannot be read or used.
        """
        declare_secrets(self.secrets())
        if self.path is not None:
            file = Path(self.path)
            if not file.is_file():
                raise ComparisonError(f"There is no script {self.path}: expected a Python training script.")
            if file.suffix == ".ipynb":
                raise ComparisonError(
                    f"{self.path} is a notebook: expected a Python training script, to which jupyter nbconvert --to "
                    "script converts it."
                )
            try:
                ast.parse(file.read_bytes(), filename=str(file))
            except (SyntaxError, ValueError) as error:
                line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
                raise ComparisonError(
                    f"{self.path} is not Python ({root_message(error)}{line}): expected a Python training script."
                ) from None
        for flag, reason in REFUSED.items():
            if self.switched_on(flag):
                raise ComparisonError(f"Leave --{flag} out of the script's arguments: {reason}.")

    def value(self, flag: str) -> Any:
        """The value that the user gave to a flag; None if the flag was not given."""
        if self._file is not None:
            return self._content.get(flag)
        found = self._config.get(flag)
        for index, token in enumerate(self.arguments):
            name, equals, value = token.partition("=")
            if name.startswith("--") and name[2:].replace("-", "_") == flag:
                following = self.arguments[index + 1 : index + 2]
                bare = not following or following[0].startswith("--")
                found = value if equals else (True if bare else following[0])
        return found

    def switched_on(self, flag: str) -> bool:
        """Whether the user gave a flag without a value that switches it off, such as ``--use_cpu false``."""
        return str(self.value(flag) or "false").lower() not in ("false", "f", "0", "n", "no", "none")

    def secrets(self) -> set[str]:
        """Values of flags that carry secrets, on the command line and in files of arguments."""
        return secret_arguments([*self.launcher, *self.arguments]) | secret_values([self._content, self._config])

    def record(self) -> dict[str, Any]:
        """The script as a plan identifies it, with its arguments as given; those in files by their values.

        Secrets are redacted. Paths are kept, because another path may be other data; publishing shortens them.
        """
        arguments: dict[str, Any] = {"arguments": recorded_arguments(self.arguments, text=redact)}
        if self._file is not None:
            arguments = {"arguments": recorded_value(self._content, text=redact)}
        elif self._config:
            arguments["config"] = recorded_value(self._config, text=redact)
        source = {} if self.path is None else {"sha256": files_digest([Path(self.path)])}
        return {
            "script": self.title,
            **source,
            **arguments,
            "launcher": shlex.join(recorded_arguments(self.launcher, text=redact)),
        }

    def command(self, flags: Mapping[str, Any], folder: Path, instructions: Path) -> list[str]:
        """The command of a run.

        Args:
            flags: Flags that the run sets, which override the user's; None removes a flag.
            folder: The run's folder, for a file of arguments.
            instructions: File of the instructions for the run's processes.
        """
        target = ["-m", str(self.module)] if self.path is None else [str(self.path)]
        own = ["-m", "hf_critmom", "run", "--recorded", str(instructions)]
        return [*_in_this_environment(self.launcher), *own, *target, *self._with_flags(flags, folder)]

    def _with_flags(self, flags: Mapping[str, Any], folder: Path) -> list[str]:
        if self._file is not None:
            content = {name: value for name, value in self._content.items() if name not in flags}
            content |= {name: value for name, value in flags.items() if value is not None}
            file = folder / f"arguments{self._file.suffix}"
            text = json.dumps(content, indent=2) if file.suffix == ".json" else yaml.safe_dump(content)
            file.touch(mode=0o600)  # it may hold secrets until the run has ended
            file.write_text(text, encoding="utf-8")
            return [str(file)]
        kept, is_value = [], False  # whether the next token may be the value of a removed flag
        for token in self.arguments:
            name, equals, _ = token.partition("=")
            if name.startswith("--") and name[2:].replace("-", "_") in flags:
                is_value = not equals
            else:
                if not is_value or token.startswith("--"):
                    kept.append(token)
                is_value = False
        for name, value in flags.items():
            if value is None and name in self._config:
                value = ""
            if value is not None:
                kept += [f"--{name}", flag_text(value)]
        return kept

    @cached_property
    def _file(self) -> Path | None:
        """The file that holds all arguments; None if they are on the command line."""
        if len(self.arguments) == 1 and re.search(r"\.(json|ya?ml)$", self.arguments[0]):
            return Path(self.arguments[0])
        return None

    @cached_property
    def _content(self) -> dict[str, Any]:
        return {} if self._file is None else _read(self._file)

    @cached_property
    def _config(self) -> dict[str, Any]:
        """The values in the file of TRL's ``--config``."""
        for index, token in enumerate(self.arguments):
            if token == "--config" and index + 1 < len(self.arguments):
                return _read(Path(self.arguments[index + 1]))
            if token.startswith("--config="):
                return _read(Path(token.partition("=")[2]))
        return {}


def split_script(argv: Sequence[str]) -> tuple[list[str], Script | None]:
    """Separates the script and its arguments from the flags of ``compare``.

    Args:
        argv: Command-line arguments, with ``--script SCRIPT`` or ``--script -m MODULE``, and after ``--`` the
            arguments of the script.

    Returns:
        The other arguments, and the script; None if there is no ``--script``.

    Raises:
        ComparisonError: If ``--script`` is given twice, or without a script.
    """
    argv = list(argv)
    end = argv.index("--") if "--" in argv else len(argv)
    own, arguments = argv[:end], argv[end + 1 :]
    own = [part for one in own for part in (["--script", one[9:]] if one.startswith("--script=") else [one])]
    if "--script" not in own:
        return argv, None
    if own.count("--script") > 1:
        raise ComparisonError("--script is given twice: a comparison has one script.")
    place = own.index("--script")
    named = own[place + 1 : place + 3] if own[place + 1 : place + 2] == ["-m"] else own[place + 1 : place + 2]
    if not named or named == ["-m"] or named[-1].startswith("-"):
        raise ComparisonError("--script needs a script, or -m and a module: --script train.py -- ARGS OF THE SCRIPT.")
    module = named[1] if named[0] == "-m" else None
    rest = own[:place] + own[place + 1 + len(named) :]
    return rest, Script(None if module else named[0], module, tuple(arguments))


def _read(file: Path) -> dict[str, Any]:
    try:
        text = read_text(file)
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ComparisonError(
            f"The file of arguments {file} cannot be read ({root_message(error)}): expected JSON or YAML."
        ) from None
    if not isinstance(content, dict):
        raise ComparisonError(f"The file of arguments {file} holds no arguments: expected names with values.")
    return {str(name).replace("-", "_"): value for name, value in content.items()}


_LAUNCHERS = {"torchrun": ["torch.distributed.run"], "accelerate": ["accelerate.commands.accelerate_cli"]}


def _in_this_environment(launcher: Sequence[str]) -> list[str]:
    """The command before ``-m MODULE``; Python and known launchers are those of this environment."""
    if not launcher or re.fullmatch(r"python[\d.]*", launcher[0]):
        return [sys.executable, *launcher[1:]]
    module = _LAUNCHERS.get(Path(launcher[0]).name)
    return list(launcher) if module is None else [sys.executable, "-m", *module, *launcher[1:]]


def flag_text(value: Any) -> str:
    """The value of a flag as text; booleans in lower case."""
    return str(value).lower() if isinstance(value, bool) else str(value)
