"""The arms that ``--arms`` and ``--arms_file`` select: by name, in sets, by specification, or from tables in a file."""

import dataclasses
import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_critmom.errors import InputError, root_message
from hf_critmom.experiments.comparison.arms.arm import (
    ARM_SETS,
    ARMS,
    BASELINES,
    COLOR,
    EARLY_ARMS,
    RANGES,
    TUNED_SUFFIX,
    Arm,
    is_adaptive,
)
from hf_critmom.experiments.comparison.arms.schedules import SCHEDULES
from hf_critmom.experiments.comparison.arms.third_party import (
    ARM_NAME,
    ArmSpec,
    default_settings,
    is_arm_spec,
    is_third_party,
    names_code,
    parse_arm,
    third_party_optimizer,
)
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.optim.damped import CriticallyDamped
from hf_critmom.optim.factory import OPTIMIZERS
from hf_critmom.storage.files import read_text

SPARE_COLORS = ("#000000", "#F0E442", "#88CCEE", "#AA7733", "#DDCC77", "#777777", "#5B8C5A", "#FF7F50", "#6A5ACD")
"""Colours of arms that are not in the table, in turn."""
MAX_NAME_LENGTH = 100 - len(TUNED_SUFFIX)
"""Length of the longest name of an arm, whose tuned variant has a name in the form of `ARM_NAME`, too."""


def get_arms(
    names: Sequence[str], known: Mapping[str, Arm] = ARMS, stored: Mapping[str, Arm] | None = None
) -> dict[str, Arm]:
    """The arms that ``--arms`` names, by name.

    Args:
        names: Names of arms and of sets of arms in `ARM_SETS`, and specifications of arms, see
            `hf_critmom.experiments.comparison.arms.third_party`.
        known: The table of arms.
        stored: Arms of the comparison that is continued, which may be named, too; arms of an early version stay as they
            are.

    Raises:
        ComparisonError: If an arm is not known or named twice, its name differs from another one only in case, or it
            cannot be built, or needs a package that is not installed.
    """
    stored = stored or {}
    spelled = [arm for name in names for arm in (ARM_SETS[name] if name in ARM_SETS and name not in known else (name,))]
    found: dict[str, Arm] = {}
    for text in spelled:
        arm = _arm(text, known, stored, SPARE_COLORS[len(found) % len(SPARE_COLORS)])
        if arm.name in found:
            raise ComparisonError(
                f"An arm is named twice in --arms {' '.join(names)}: name each once, with [name=...] for another name."
            )
        same = next((name for name in (*found, *stored) if name.casefold() == arm.name.casefold()), arm.name)
        if same != arm.name and arm.name not in stored:
            raise ComparisonError(
                f"The arms {same} and {arm.name} differ only in case, and would share a folder on some file systems: "
                "give one of them another name with [name=...]."
            )
        found[arm.name] = _as_stored(arm, stored, known)
    for arm in found.values():
        check_arm(arm)
    return found


def _as_stored(arm: Arm, stored: Mapping[str, Arm], known: Mapping[str, Arm]) -> Arm:
    """An arm as an early version stored it, if the comparison that is continued has that one."""
    early = [EARLY_ARMS[arm.name]] if arm.name in EARLY_ARMS else []
    if arm.name not in ARMS:
        # Those of --optim had the defaults of the TrainingArguments, those of a file the values of the comparison.
        by_name = arm.optimizer.startswith("optim:")
        then: dict[str, Any] = {"learning_rate": 5e-5 if by_name else None, "weight_decay": 0.0 if by_name else None}
        kind = _settings_of_kind(arm.optimizer, known)
        early += [dataclasses.replace(arm, **{name: then[name] for name in then if kind[name] == getattr(arm, name)})]
    return next((one for one in early if stored.get(arm.name) == one), arm)


def _settings_of_kind(optimizer: str, known: Mapping[str, Arm]) -> dict[str, Any]:
    """Learning rate and weight decay of an arm that gives none: those of the table's arm of that optimizer, or kind."""
    name = optimizer.removeprefix("optim:")
    of_kind = known["adamw" if is_adaptive(name) else "constant"]
    like = next((arm for arm in known.values() if arm.optimizer == name), of_kind)
    return {"learning_rate": like.learning_rate, "weight_decay": like.weight_decay}


def _arm(text: str, known: Mapping[str, Arm], stored: Mapping[str, Arm], color: str) -> Arm:
    if text in known:
        return known[text]
    if text in stored and not names_code(stored[text].optimizer):
        return stored[text]
    if not is_arm_spec(text):
        near = difflib.get_close_matches(text, [*known, *ARM_SETS], n=3)
        hint = f"did you mean {' or '.join(near)}? The arms are" if near else "choose among"
        raise ComparisonError(
            f"Unknown arm {text!r}: {hint} {', '.join(known)}, or {', '.join(ARM_SETS)} for several at once; other "
            "optimizers are named like timm:lion, optim:adafactor or torch.optim.RAdam."
        )
    spec = parse_arm(text)
    if not is_third_party(spec.source):
        return _variant(text, spec, known, color)
    check_name(spec.name)
    options = _json_options(spec)
    return _with_spec(
        text,
        Arm("other", spec.source),
        spec,
        name=spec.name,
        options=options,
        **_own_settings(spec.source, options, known),
        help=f"{spec.source}, {_options_text(options)}" if options else spec.source,
        color=stored[spec.name].color if spec.name in stored else color,
    )


def _own_settings(optimizer: str, options: Mapping[str, Any], known: Mapping[str, Arm]) -> dict[str, Any]:
    """Learning rate, weight decay and schedule of an arm that gives none."""
    if not is_third_party(optimizer):
        return _settings_of_kind(optimizer, known)
    own = dict(zip(("learning_rate", "weight_decay", "schedule"), default_settings(optimizer, options), strict=True))
    return {**own, **(_settings_of_kind(optimizer, known) if optimizer.startswith("optim:") else {})}


def _variant(text: str, spec: ArmSpec, known: Mapping[str, Arm], color: str) -> Arm:
    """An arm of the table with other options."""
    if spec.source not in known:
        raise ComparisonError(f"Unknown arm {spec.source!r} in {text!r}: choose among {', '.join(known)}.")
    base = known[spec.source]
    if spec.name in ARMS:
        raise ComparisonError(f"The arm {text!r} needs a name of its own: give one with [name=...].")
    check_name(spec.name)
    return _with_spec(
        text,
        base,
        spec,
        name=spec.name,
        options={**base.options, **_json_options(spec)},
        help=f"{base.help}, but with {_options_text(spec.options)}" if spec.options else base.help,
        color=color,
    )


def _json_options(spec: ArmSpec) -> dict[str, Any]:
    """The options of a specification as a plan stores them."""
    options: dict[str, Any] = json.loads(json.dumps(dict(spec.options), default=str))
    return options


def _with_spec(text: str, base: Arm, spec: ArmSpec, **parts: Any) -> Arm:
    """An arm with the schedule, learning rate and weight decay of a specification, as far as it gives them."""
    given = {name: getattr(spec, name) for name in ("schedule", "learning_rate", "weight_decay")}
    try:
        return dataclasses.replace(base, **parts | {name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        raise ComparisonError(f"The arm {text!r} cannot be used: {error}.") from None


def check_arm(arm: Arm) -> None:
    """Builds an arm's optimizer, so that options it refuses are an error before anything is written.

    Raises:
        ComparisonError: If it cannot be built, or its schedule does not fit it.
    """
    if is_third_party(arm.optimizer):
        third_party_optimizer(arm.optimizer, arm.options, 0.1 if arm.learning_rate is None else arm.learning_rate)
    try:
        cls, kwargs = arm.optimizer_cls_and_kwargs(0.1)
        optimizer = cls([torch.zeros(1, 1, requires_grad=True)], **kwargs)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise ComparisonError(f"{arm.optimizer} refuses its options ({root_message(error)}).") from None
    group, follows = optimizer.param_groups[0], isinstance(optimizer, CriticallyDamped)
    if arm.schedule in ("demon", "matched") and ("momentum" not in group or follows):
        raise ComparisonError(
            f"the schedule {arm.schedule} needs an optimizer with a momentum that does not follow the learning rate, "
            f"which {arm.optimizer} does not have: choose another schedule for it."
        )
    if arm.schedule == "onecycle" and not {"momentum", "betas"} & group.keys():
        raise ComparisonError(
            f"the schedule onecycle cycles a momentum, which {arm.optimizer} does not have: choose another schedule "
            "for it."
        )


def check_name(name: str) -> None:
    """Refuses names of arms that cannot be folders, or have another meaning.

    Raises:
        ComparisonError: If the name cannot be used.
    """
    allowed = re.fullmatch(ARM_NAME, f"{name}{TUNED_SUFFIX}")  # the tuned variant is an arm, too
    if not allowed or name in ARM_SETS or name.lower().endswith(TUNED_SUFFIX):
        raise ComparisonError(
            f"{name!r} cannot name an arm: use letters, digits, '_', '-' and '.', {MAX_NAME_LENGTH} at most, but "
            f"neither {', '.join(ARM_SETS)} nor a name that ends in {TUNED_SUFFIX}."
        )


def read_arms(file: Path, known: Mapping[str, Arm] = ARMS) -> dict[str, Arm]:
    """Reads arms from a TOML or JSON file: a table per arm, with the attributes of `Arm` except name and base.

    Args:
        file: The file.
        known: The table of arms.

    Returns:
        The table with the file's arms, which replace those of the same name.

    Raises:
        ComparisonError: If the file cannot be read, or an arm in it cannot be used.
    """
    try:
        text = read_text(file)
        content = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ComparisonError(
            f"--arms_file {file} cannot be read ({root_message(error)}): expected a TOML or JSON file "
            "with a table per arm."
        ) from None
    if not isinstance(content, dict) or not content:
        raise ComparisonError(f"--arms_file {file} holds no arms: expected a table per arm, such as [slow] in TOML.")
    arms = dict(known)
    for number, (name, values) in enumerate(content.items()):
        try:
            arms[name] = _arm_from_file(name, values, SPARE_COLORS[number % len(SPARE_COLORS)], known)
        except ValueError as error:
            raise ComparisonError(f"The arm {name!r} in {file} cannot be used: {str(error).rstrip('.')}.") from None
    return arms


def _arm_from_file(name: str, values: Any, color: str, known: Mapping[str, Arm]) -> Arm:
    check_name(name)
    settable = [part.name for part in dataclasses.fields(Arm) if part.name not in ("name", "base")]
    if not isinstance(values, dict) or "optimizer" not in values:
        raise ComparisonError("expected a table with at least its optimizer.")
    if unknown := [key for key in values if key not in settable]:
        raise ComparisonError(f"unknown {', '.join(unknown)}: an arm has {', '.join(settable)}.")
    if json_error := _json_error(values):
        raise ComparisonError(f"its values must be strings, finite numbers, booleans, lists or tables ({json_error}).")
    optimizer, options = values["optimizer"], values.get("options", {})
    third_party = isinstance(optimizer, str) and is_third_party(optimizer)
    if not third_party and optimizer not in (*BASELINES, *OPTIMIZERS):
        raise ComparisonError(
            f"unknown optimizer {optimizer!r}: choose among {', '.join((*BASELINES, *OPTIMIZERS))}, or name one like "
            "timm:lion, optim:adafactor or torch.optim.RAdam."
        )
    if values.get("schedule", "trainer") not in list(SCHEDULES):
        raise ComparisonError(f"unknown schedule {values['schedule']!r}: choose among {', '.join(SCHEDULES)}.")
    for key, (least, most, expected) in RANGES.items():
        value = values.get(key, 1.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise ComparisonError(f"{key} must be {expected}, got {value!r}.")
    if not isinstance(options, dict) or {"lr", "weight_decay"} & options.keys():
        raise ComparisonError(
            "options must be a table without lr and weight_decay: give learning_rate and weight_decay beside it."
        )
    shown = {"color": color, "help": f"{optimizer}, from a file of arms"}
    shown |= {key: value for key, value in values.items() if key in shown}
    if not (re.fullmatch(COLOR, str(shown["color"])) and isinstance(shown["help"], str)):
        raise ComparisonError(
            f"color must be like #0072B2, and help a string, got {shown['color']!r} and {shown['help']!r}."
        )
    arm = Arm(name, **{**_own_settings(optimizer, options, known), **values, **shown})
    check_arm(arm)
    return arm


def _json_error(values: Any) -> str:
    """Why values cannot be stored in a plan; empty if they can."""
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        return root_message(error)
    return ""


def _options_text(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())
