"""Layer groups: which parameters belong together, for any model without configuration.

The groups of a residual network are its stem and its stages: conv1, bn1, layer1, layer2, layer3, layer4, fc. Those of a
transformer are its embeddings, each of its blocks, its last norm and its head. Both follow from the tree of modules
alone, so architectures need not be known by name; users who want others give regular expressions.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from hf_critmom.attribution.automatic_groups import automatic_groups
from hf_critmom.attribution.errors import AttributionError
from hf_critmom.attribution.names import clean_name, named_parameters

REST = "other"
"""The group of the parameters that match none of the user's expressions."""


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
            AttributionError: If one is not the name of a group, or none is given.
        """
        requested = tuple(names)
        if unknown := [name for name in requested if name not in self.parameters]:
            raise AttributionError(
                f"Unknown layer group {', '.join(map(repr, unknown))}: this model has {', '.join(self.parameters)}."
            )
        if not requested:
            raise AttributionError(f"No layer group was named: this model has {', '.join(self.parameters)}.")
        return requested

    def of(self, model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
        """The parameters themselves, by group and name.

        Raises:
            AttributionError: If the model's parameters are not the ones that were grouped.
        """
        found = named_parameters(model)
        expected = [name for names in self.parameters.values() for name in names]
        if odd := sorted(set(expected) ^ set(found)):
            raise AttributionError(
                f"The layer groups are not of this {type(model).__name__} (they differ in {_some(odd)}): make them "
                "from the model itself, with layer_groups(model)."
            )
        return {group: {name: found[name] for name in names} for group, names in self.parameters.items()}


Groups = LayerGroups | str | Sequence[str] | Mapping[str, str | Sequence[str]] | None
"""What `layer_groups` takes as groups."""


def layer_groups(model: nn.Module, groups: Groups = None) -> LayerGroups:
    """Sorts a model's parameters into groups.

    Args:
        model: Any module; wrappers of data parallelism, compilation, sharding and PEFT make no difference.
        groups: None for the automatic groups; regular expressions, each ``name=expression`` or an expression that is
            its own name, or whose first parenthesis captures the name (``layer(\\d+)``); or a mapping from names to an
            expression or to a list of parameters. An expression is searched for in a parameter's name. The first that
            fits decides, and what fits none goes to "other". Groups that were made already are checked and returned.

    Raises:
        AttributionError: If the model has no parameters, an expression is not valid or fits no parameter, a parameter
            that is listed does not exist, or a group is left without any.
    """
    names = list(named_parameters(model))
    if not names:
        raise AttributionError(f"{type(model).__name__} has no parameters: there is nothing to sort into layer groups.")
    if isinstance(groups, LayerGroups):
        groups.of(model)
        return groups
    automatic = automatic_groups(model)
    group_of = automatic if groups is None else _by_expression(names, groups, automatic)
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(group_of[name], []).append(name)
    return LayerGroups({group: tuple(members) for group, members in found.items()}, _tied(model))


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
                raise AttributionError(
                    f"Layer group {group!r} lists parameters that the model does not have ({_some(missing)}): its "
                    f"parameters are named like {_some(names)}."
                )
            fitting = {name: group for name in names if name in set(members)}
        else:
            matches = {name: match for name in names if (match := _expression(members).search(name))}
            fitting = {name: group or _captured(match) or members for name, match in matches.items()}
        if not fitting:
            raise AttributionError(
                f"No parameter's name fits {members!r}: the automatic layer groups are {known}, and parameters are "
                f"named like {_some(names)}."
            )
        earlier, group_of = group_of, {**fitting, **group_of}
        if not set(fitting.values()) & set(group_of.values()):
            taken = ", ".join(dict.fromkeys(earlier[name] for name in fitting))
            raise AttributionError(
                f"No parameter is left for the layer group {group or members!r}: all that it fits belong to groups "
                f"before it ({taken}). Put it before them, or leave it out."
            )
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
        raise AttributionError(f"{text!r} is not a regular expression ({error}): correct it, or quote it.") from None


def _captured(match: re.Match[str]) -> str | None:
    return match.group(1) if match.re.groups else None


def _some(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (" and others" if len(names) > count else "")
