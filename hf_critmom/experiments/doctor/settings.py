"""The settings of a training, from the checkpoint and the training arguments beside its log."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from transformers.training_args import OptimizerNames

from hf_critmom.optim.controls import CONSTANT_MOMENTUM
from hf_critmom.optim.damped import DAMPING_OPTIONS
from hf_critmom.optim.factory import OPTIMIZERS
from hf_critmom.optim.options import check_option, parse_optim_args
from hf_critmom.optim.resuming import optimizer_name
from hf_critmom.storage.checkpoints import OPTIMIZER_FILE, read_torch_file
from hf_critmom.storage.errors import CheckpointError
from hf_critmom.storage.pickled_attributes import read_attributes
from hf_critmom.training.callbacks.damping import is_heavy_ball

Kind = Literal["sgd", "adam"]

DEFAULTS = ("adamw_torch", "adamw_torch_fused")
"""What versions of Transformers have as ``--optim`` where nobody chose it."""
ARGUMENTS_FILE = "training_args.bin"
ARGUMENTS = (
    "optim",
    "optim_args",
    "adam_beta1",
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "logging_nan_inf_filter",
    "metric_for_best_model",
    "greater_is_better",
)


@dataclass(frozen=True)
class Settings:
    """The settings of a training; None means not known.

    Attributes:
        optimizer: Name of the optimizer.
        kind: "sgd" for SGD with momentum, "adam" for Adam's running averages; None for others, or if not known.
        source: File from which optimizer and momentum were read.
        momentum: Constant momentum, or Adam's beta1.
        damped: Options of critically damped momentum, if momentum follows the learning rate.
        scheduled: Whether a schedule changes momentum, so that only the log shows it.
        rescaled: Whether steps use another learning rate than the schedule's, so that only the log shows it.
        weighted: Whether steps are quasi-hyperbolic with a weight that only the log shows.
        nesterov: Whether steps look ahead by Nesterov's momentum.
        weight_decay: Coefficient of weight decay.
        max_grad_norm: Norm to which gradients are clipped; 0 for no clipping.
        batch_size: Number of examples in an optimizer step.
        hides_nan: Whether non-finite losses are omitted from the log (``logging_nan_inf_filter``).
        metric: Name of the metric that chooses the best model, without its prefix.
        greater_is_better: Whether a greater value of that metric is better.
        targets: Values of the metric for time to target.
        notes: Files that could not be read, and settings that the formulas do not cover, as sentences.
    """

    optimizer: str | None = None
    kind: Kind | None = None
    source: str = ""
    momentum: float | None = None
    damped: Mapping[str, Any] | None = None
    scheduled: bool = False
    rescaled: bool = False
    weighted: bool = False
    nesterov: bool = False
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    batch_size: int | None = None
    hides_nan: bool | None = None
    metric: str | None = None
    greater_is_better: bool | None = None
    targets: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


def named_settings(name: str, options: Mapping[str, Any], source: str, *, beta1: float | None = None) -> Settings:
    """The settings that follow from an optimizer's name and options.

    Args:
        name: A name of ``--optim``, of `OPTIMIZERS`, or of an arm's optimizer.
        options: Options of the optimizer.
        source: File from which they were read, for the report.
        beta1: Adam's beta1 if the options do not contain it.
    """
    nesterov = check_option("nesterov", options.get("nesterov", False))
    if name == "sgd":
        momentum = float(options.get("momentum", 0.0))
        settings = Settings(name, "sgd", source, momentum=momentum, nesterov=nesterov)
        return _without_damping(settings, float(options.get("dampening", 0.0)))
    if name.startswith("adamw"):
        betas = options.get("betas")
        return Settings(name, "adam", source, momentum=float(betas[0]) if betas else beta1)
    if (spec := OPTIMIZERS.get(name)) is None or name == "ikfad":
        return Settings(name, None, source)
    given = {**spec.preset, **options}
    if name == "critmom_matched":
        return Settings(name, "sgd", source, momentum=CONSTANT_MOMENTUM, rescaled=True, nesterov=nesterov)
    if name == "critmom_qhm":
        return Settings(name, "sgd", source, momentum=float(given.get("momentum", 0.9)), weighted=True)
    damped = {
        option: spec.option(option).check(given.get(option, spec.option(option).default)) for option in DAMPING_OPTIONS
    }
    kind: Kind = "adam" if spec.takes_adam_arguments else "sgd"
    rescaled = name == "critmom_compensated"
    return Settings(name, kind, source, damped=damped, rescaled=rescaled, nesterov=nesterov)


def read_settings(folder: Path, checkpoint: Path | None, process_batch: int | None = None) -> Settings:
    """The settings of a Trainer's run, from its training arguments and its newest checkpoint.

    Args:
        folder: The run's output folder.
        checkpoint: The newest checkpoint, if there is one.
        process_batch: Number of examples in a batch of a process, as the Trainer's state holds it: several devices of
            one process and ``auto_find_batch_size`` change it; None: as the arguments say.
    """
    places = [place for place in (folder, checkpoint) if place is not None]
    arguments, notes = _arguments([place / ARGUMENTS_FILE for place in places])
    settings = _of_arguments(arguments)
    try:
        group = _param_group(places)
    except CheckpointError as error:
        group, notes = None, [*notes, str(error)]
    if group is not None:
        settings = _of_group(settings, *group)
    processes = max((len(list(place.glob("rng_state*.pth"))) for place in places), default=0)
    per_device, accumulated = (
        arguments.get(name) for name in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    of_process = process_batch or per_device
    if processes and isinstance(of_process, int) and isinstance(accumulated, int):
        settings = replace(settings, batch_size=of_process * accumulated * processes)
    return replace(settings, notes=(*settings.notes, *notes))


def _arguments(files: list[Path]) -> tuple[dict[str, Any], list[str]]:
    """Training arguments that are plain values, and a sentence if their file cannot be read."""
    file = next((file for file in files if file.exists()), None)
    if file is None:
        return {}, []
    try:
        return read_attributes(file, ARGUMENTS, [OptimizerNames]), []
    except CheckpointError as error:
        return {}, [str(error)]


def _of_arguments(arguments: Mapping[str, Any]) -> Settings:
    settings = Settings()
    optim, beta1 = arguments.get("optim"), arguments.get("adam_beta1")
    if isinstance(optim, str):
        beta1 = float(beta1) if isinstance(beta1, int | float) else None
        try:
            options = parse_optim_args(arguments.get("optim_args"))
            settings = named_settings(optim, options, ARGUMENTS_FILE, beta1=beta1)
        except ValueError:  # options of another optimizer
            settings = Settings(optim, None, ARGUMENTS_FILE)
    metric = arguments.get("metric_for_best_model")
    filtered, rising = arguments.get("logging_nan_inf_filter"), arguments.get("greater_is_better")
    return replace(
        settings,
        weight_decay=_number(arguments.get("weight_decay")),
        max_grad_norm=_number(arguments.get("max_grad_norm")),
        hides_nan=filtered if isinstance(filtered, bool) else None,
        metric=metric.removeprefix("eval_") if isinstance(metric, str) else None,
        greater_is_better=rising if isinstance(rising, bool) else None,
    )


def _param_group(places: list[Path]) -> tuple[Mapping[str, Any], str | None, str] | None:
    """A param group of the checkpoint's optimizer, preferably one with weight decay; the class, if known; the file."""
    file = next((place / OPTIMIZER_FILE for place in reversed(places) if (place / OPTIMIZER_FILE).exists()), None)
    if file is None:
        return None
    state = read_torch_file(file, mmap=True)
    groups = state.get("param_groups")
    if not (isinstance(groups, list) and groups and all(isinstance(group, dict) for group in groups)):
        raise CheckpointError(f"{file} does not hold the param groups of an optimizer.")
    decays = [group for group in groups if _number(group.get("weight_decay"))]
    return (decays or groups)[0], optimizer_name(state), f"{OPTIMIZER_FILE} of {file.parent.name}"


def _of_group(settings: Settings, group: Mapping[str, Any], cls: str | None, source: str) -> Settings:
    """The settings corrected by a param group, which shows what really trained."""
    betas = group.get("betas")
    is_adam = isinstance(betas, list | tuple) and len(betas) == 2 and "eps" in group
    kind: Kind | None = "adam" if is_adam else "sgd" if is_heavy_ball(group) else None
    name = settings.optimizer
    notes: tuple[str, ...] = ()
    if name is None or not _is_possible(name, kind, cls, group):
        if name is not None and name not in DEFAULTS:
            notes = (f"--optim {name} was not used: the script brings an optimizer of its own.",)
        adam = cls if cls is not None and "decoupled_weight_decay" in group else "an optimizer of Adam's kind"
        name = next(iter(_own_names(cls)), {"adam": adam, "sgd": "SGD", None: None}[kind])
    follows = group.keys() >= {*DAMPING_OPTIONS} and group.get("control") != "matched"
    scheduled = "base_momentum" in group and not follows
    momentum = betas[0] if betas and is_adam else group.get("momentum")
    found = replace(
        settings,
        optimizer=name,
        kind=kind,
        source=source,
        momentum=None if follows or scheduled else _number(momentum),
        damped={option: group[option] for option in DAMPING_OPTIONS} if follows else None,
        scheduled=scheduled,
        rescaled="control" in group,
        weighted="fixed_nu" in group,
        nesterov=bool(group.get("nesterov")),
        weight_decay=_number(group.get("weight_decay")),
        notes=notes,
    )
    return _without_damping(found, _number(group.get("dampening")))


def _is_possible(name: str, kind: Kind | None, cls: str | None, group: Mapping[str, Any]) -> bool:
    """Whether ``--optim NAME`` can have made a param group: by its class where one of ours is in play, else by kind."""
    if name in OPTIMIZERS or _own_names(cls):
        return name in _own_names(cls)
    if name == "sgd":
        return kind == "sgd"
    return not name.startswith("adamw") or (kind == "adam" and group.get("decoupled_weight_decay") is not False)


def _own_names(cls: str | None) -> list[str]:
    """The names of ``--optim`` for a class of this package; empty for other classes."""
    return [name for name, spec in OPTIMIZERS.items() if spec.cls.__name__ == cls]


def _without_damping(settings: Settings, dampening: float | None) -> Settings:
    """The settings of SGD as those of another kind if it has dampening, with which its mean step is a different one."""
    if settings.kind != "sgd" or not dampening:
        return settings
    note = f"SGD has dampening {dampening:g}, for which damping ratio and mean step are not computed here."
    return replace(settings, kind=None, notes=(*settings.notes, note))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
