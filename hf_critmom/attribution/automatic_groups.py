"""The automatic layer groups, which follow from the tree of modules alone."""

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from hf_critmom.attribution.names import clean_name, named_parameters

_STAGES = 3
"""Lists of blocks below one module, from which on they are the stages of a network rather than parts of it."""


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
        if hasattr(self.modules.get(path), "base_layer"):  # a layer that PEFT adapts is a layer still
            return []
        depth = path.count(".") + 1 if path else 0
        below = f"{path}." if path else ""
        return [other for other in self.members if other and other.startswith(below) and other.count(".") == depth]

    def has_own_parameters(self, path: str) -> bool:
        return any(_ancestors(name)[-1] == path for name in self.order)

    def is_list_of_blocks(self, path: str) -> bool:
        """Whether a module is a list of blocks that are themselves made of modules: run one after the other, or of one
        kind."""
        module, children = self.modules.get(path), self.children(path)
        if not children or not all(self.children(child) for child in children):
            return False
        if any(isinstance(part, PreTrainedModel) for child in children for part in self.modules[child].modules()):
            return False  # these are networks, and their blocks lie within
        if isinstance(module, nn.ModuleList):
            return True
        return isinstance(module, nn.Sequential) and len({type(self.modules[child]) for child in children}) == 1


def automatic_groups(model: nn.Module) -> dict[str, str]:
    """The group of each parameter."""
    tree = _Tree(model)
    core = ""
    # What holds a single module is wrapped around the model, also where it is a list, as a SentenceTransformer is.
    while len(children := tree.children(core)) == 1 and not tree.has_own_parameters(core):
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
