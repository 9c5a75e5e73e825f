"""Layer groups: which parameters belong together, for any model without configuration.

The groups of a residual network are its stem and its stages: conv1, bn1, layer1, layer2, layer3, layer4, fc. Those of a
transformer are its embeddings, each of its blocks, its last norm and its head. Both follow from the tree of modules
alone, so architectures need not be known by name; users who want others give regular expressions.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from hf_critmom.attribution.errors import DiagnosisError

REST = "other"
"""The group of the parameters that match none of the user's expressions."""

_OUTER = re.compile(r"^(?:module\.|_orig_mod\.)*(?:base_model\.model\.)?")
_INNER = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_STAGES = 3
"""Lists of blocks below one module, from which on they are the stages of a network rather than parts of it."""


@dataclass(frozen=True)
class LayerGroups:
    """A partition of a model's parameters into named groups.

    Attributes:
        parameters: Names of the parameters of each group, in the model's order, free of the prefixes of wrappers.
        tied: Other names of shared parameters, which are counted once, under the name that this maps them to.
    """

    parameters: Mapping[str, tuple[str, ...]]
    tied: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups."""
        return tuple(self.parameters)

    def check(self, names: Iterable[str]) -> tuple[str, ...]:
        """Returns names of groups as they are.

        Raises:
            DiagnosisError: If one is not the name of a group, or none is given.
        """
        asked = tuple(names)
        if unknown := [name for name in asked if name not in self.parameters]:
            raise DiagnosisError(
                f"Unknown layer group {', '.join(map(repr, unknown))}: this model has {', '.join(self.parameters)}."
            )
        if not asked:
            raise DiagnosisError(f"No layer group was named: this model has {', '.join(self.parameters)}.")
        return asked

    def of(self, model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
        """The parameters themselves, by group and name.

        Raises:
            DiagnosisError: If the model's parameters are not the ones that were grouped.
        """
        found = named_parameters(model)
        expected = [name for names in self.parameters.values() for name in names]
        if odd := sorted(set(expected) ^ set(found)):
            raise DiagnosisError(
                f"The layer groups are not of this {type(model).__name__} (they differ in {_some(odd)}): make them "
                "from the model itself, with layer_groups(model)."
            )
        return {group: {name: found[name] for name in names} for group, names in self.parameters.items()}


Groups = LayerGroups | str | Sequence[str] | Mapping[str, str | Sequence[str]] | None
"""What can be asked for as groups, see `layer_groups`."""


def layer_groups(model: nn.Module, groups: Groups = None) -> LayerGroups:
    """Sorts a model's parameters into groups.

    Args:
        model: Any module; wrappers of data parallelism, compilation, sharding and PEFT make no difference.
        groups: None for the automatic groups; regular expressions, each ``name=expression`` or an expression that is
            its own name, or whose first parenthesis captures the name (``layer(\\d+)``); or a mapping from names to an
            expression or to a list of parameters. An expression is searched for in a parameter's name. The first that
            fits decides, and what fits none goes to "other". Groups that were made already are checked and returned.

    Raises:
        DiagnosisError: If the model has no parameters, an expression is not valid or fits no parameter, or a
            parameter that is listed does not exist.
    """
    names = list(named_parameters(model))
    if not names:
        raise DiagnosisError(f"{type(model).__name__} has no parameters: there is nothing to sort into layer groups.")
    if isinstance(groups, LayerGroups):
        groups.of(model)
        return groups
    automatic = _automatic(model)
    group_of = automatic if groups is None else _by_expression(names, groups, automatic)
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(group_of[name], []).append(name)
    return LayerGroups({group: tuple(members) for group, members in found.items()}, _tied(model))


def clean_name(name: str) -> str:
    """A parameter's name without the prefixes of wrappers: DDP, torch.compile, FSDP, PEFT, activation checkpoints."""
    return _INNER.sub("", _OUTER.sub("", _INNER.sub("", name)))


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """A model's parameters by their clean names, shared ones once."""
    return {clean_name(name): parameter for name, parameter in model.named_parameters()}


def _tied(model: nn.Module) -> dict[str, str]:
    first = {id(parameter): name for name, parameter in named_parameters(model).items()}
    every = ((clean_name(name), first[id(p)]) for name, p in model.named_parameters(remove_duplicate=False))
    return {name: original for name, original in every if name != original}


# ------------------------------------------------------------------------------------------------ as the user wants it


def _by_expression(
    names: list[str], groups: str | Sequence[str] | Mapping[str, str | Sequence[str]], automatic: Mapping[str, str]
) -> dict[str, str]:
    known = ", ".join(dict.fromkeys(automatic.values()))
    group_of: dict[str, str] = {}
    for group, members in _pairs(groups):
        if not isinstance(members, str):
            if missing := sorted(set(members) - set(names)):
                raise DiagnosisError(
                    f"Layer group {group!r} lists parameters that the model does not have ({_some(missing)}): its "
                    f"parameters are named like {_some(names)}."
                )
            fitting = {name: group for name in names if name in set(members)}
        else:
            matches = {name: match for name in names if (match := _expression(members).search(name))}
            fitting = {name: group or _captured(match) or members for name, match in matches.items()}
        if not fitting:
            raise DiagnosisError(
                f"No parameter's name fits {members!r}: the automatic layer groups are {known}, and parameters are "
                f"named like {_some(names)}."
            )
        group_of = {**fitting, **group_of}
    return {name: group_of.get(name, REST) for name in names}


def _pairs(
    groups: str | Sequence[str] | Mapping[str, str | Sequence[str]],
) -> Iterator[tuple[str, str | Sequence[str]]]:
    """Names of groups (empty where the expression itself names it) with an expression or a list of parameters."""
    if isinstance(groups, Mapping):
        yield from groups.items()
        return
    for text in [groups] if isinstance(groups, str) else groups:
        name, separator, expression = text.partition("=")
        yield (name, expression) if separator and name and expression else ("", text)


def _expression(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise DiagnosisError(f"{text!r} is not a regular expression ({error}): correct it, or quote it.") from None


def _captured(match: re.Match[str]) -> str | None:
    return match.group(1) if match.re.groups else None


def _some(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (" and others" if len(names) > count else "")


# ------------------------------------------------------------------------------------------------------- automatically


class _Tree:
    """The modules of a model that hold parameters, each parameter at its first place only.

    Attributes:
        modules: Modules by path, with clean names.
        order: Index of each parameter in the model's order, by name.
        members: Indices of the parameters below each module.
        sizes: Number of values below each module.
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = named_parameters(model)
        # Where wrapper and wrapped share a path, the wrapped one comes later and counts.
        self.modules = {clean_name(f"{name}.").removesuffix("."): module for name, module in model.named_modules()}
        self.order = {name: index for index, name in enumerate(parameters)}
        self.members: dict[str, list[int]] = {}
        self.sizes: dict[str, int] = {}
        for name, index in self.order.items():
            for path in _ancestors(name):
                self.members.setdefault(path, []).append(index)
                self.sizes[path] = self.sizes.get(path, 0) + parameters[name].numel()

    def children(self, path: str) -> list[str]:
        """Paths of the modules directly below one that hold parameters."""
        depth = path.count(".") + 1 if path else 0
        below = f"{path}." if path else ""
        return [other for other in self.members if other and other.startswith(below) and other.count(".") == depth]

    def has_own_parameters(self, path: str) -> bool:
        return any(_ancestors(name)[-1] == path for name in self.order)

    def is_list_of_blocks(self, path: str) -> bool:
        """Whether a module is a list of blocks that are themselves made of modules: one after the other, or alike."""
        module, children = self.modules.get(path), self.children(path)
        if not children or not all(self.children(child) for child in children):
            return False
        if isinstance(module, nn.ModuleList):
            return True
        return isinstance(module, nn.Sequential) and len({type(self.modules[child]) for child in children}) == 1


def _automatic(model: nn.Module) -> dict[str, str]:
    """The group of each parameter."""
    tree = _Tree(model)
    core = ""
    while (
        len(children := tree.children(core)) == 1
        and not tree.has_own_parameters(core)
        and not tree.is_list_of_blocks(core)
    ):
        core = children[0]
    lists = list(_outermost_lists(tree, core))
    parents = [_parent(path) for path in lists]
    if stages := {parent for parent in parents if parents.count(parent) >= _STAGES}:
        return _stages(tree, core, stages)
    if lists:
        return _blocks(tree, core, lists)
    return _opened(tree, core)


def _outermost_lists(tree: _Tree, path: str) -> Iterator[str]:
    if tree.is_list_of_blocks(path):
        yield path
        return
    for child in tree.children(path):
        yield from _outermost_lists(tree, child)


def _stages(tree: _Tree, core: str, parents: set[str]) -> dict[str, str]:
    """A network of stages, such as a ResNet: what lies directly below their common parent makes the groups."""
    group_of = {}
    for name in tree.order:
        inside = next((parent for parent in parents if _is_below(name, parent)), None)
        below = _relative(name, core if inside is None else inside).partition(".")[0]
        prefix = f"{_relative(inside, core)}." if inside is not None and len(parents) > 1 else ""
        group_of[name] = prefix + below
    return group_of


def _blocks(tree: _Tree, core: str, lists: list[str]) -> dict[str, str]:
    """A network of blocks, such as a transformer: embeddings, every block, then norm and head."""
    labels = _labels(lists, core)
    begins = {path: tree.members[path][0] for path in lists}
    group_of = {}
    for name, index in tree.order.items():
        own = next((path for path in lists if _is_below(name, path)), None)
        if own is not None:
            group_of[name] = f"{labels[own]}block{_relative(name, own).partition('.')[0]}"
            continue
        near = next((path for path in lists if _parent(path) != core and _is_below(name, _parent(path))), None)
        if index < (min(begins.values()) if near is None else begins[near]):
            group_of[name] = "embeddings"
            continue
        # The largest module around the parameter that lies beside the lists rather than around one.
        beside = [path for path in _ancestors(name) if not any(_is_below(blocks, path) for blocks in lists)]
        is_norm = (
            bool(beside) and not tree.children(beside[0]) and "norm" in type(tree.modules[beside[0]]).__name__.lower()
        )
        group_of[name] = (labels[near] if near is not None else "") + ("norm" if is_norm else "head")
    return group_of


def _labels(lists: list[str], core: str) -> dict[str, str]:
    """What stands before the names of a list's groups: nothing for the only list, else what tells them apart."""
    if len(lists) == 1:
        return {lists[0]: ""}
    parents = [_parent(path) for path in lists]
    chosen = lists if len(set(parents)) < len(lists) else parents
    return {path: f"{_relative(label, core)}." for path, label in zip(lists, chosen, strict=True)}


def _opened(tree: _Tree, core: str) -> dict[str, str]:
    """Any other network: its modules, where one that holds more than half of the parameters gives way to its own."""
    paths = tree.children(core)
    while wide := next(
        (path for path in paths if 2 * tree.sizes[path] > tree.sizes[core] and tree.children(path)), None
    ):
        place = paths.index(wide)
        paths[place : place + 1] = tree.children(wide)
    if not paths:  # a single module, such as a linear classifier
        return dict.fromkeys(tree.order, core.rpartition(".")[2] or type(tree.modules[core]).__name__.lower())
    return {name: _relative(next((path for path in paths if _is_below(name, path)), name), core) for name in tree.order}


def _ancestors(name: str) -> list[str]:
    """Paths of the modules around a parameter, the model itself ("") first."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _is_below(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(f"{path}.")


def _relative(name: str, path: str) -> str:
    return name.removeprefix(f"{path}.") if path else name
