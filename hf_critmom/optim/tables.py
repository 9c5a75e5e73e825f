"""Rules, optimizers and options as Markdown, for the guide in this folder (README.md): the code is what it says.

python -m hf_critmom.optim.tables
"""

from collections.abc import Iterable
from typing import Any

from hf_critmom.damping import RULES
from hf_critmom.optim.factory import OPTIMIZERS, OptimizerSpec
from hf_critmom.optim.options import Option


def rules_table() -> str:
    """The rules, with the momentum at learning rate lr and curvature k."""
    return _markdown(("rule", "momentum"), ((f"`{rule.name}`", rule.formula) for rule in RULES.values()))


def optimizers_table() -> str:
    """The names of ``--optim``, with class, description and options."""
    rows = (
        (f"`{spec.name}`", f"`{spec.cls.__name__}`", spec.help, ", ".join(f"`{name}`" for name in spec.options))
        for spec in OPTIMIZERS.values()
    )
    return _markdown(("`--optim`", "class", "what it is", "options"), rows)


def options_table() -> str:
    """The options of ``--optim_args``, each with default, values, effect and the optimizers that take it."""
    takers: dict[Option, list[OptimizerSpec]] = {}
    for spec in OPTIMIZERS.values():
        for name in spec.options:
            takers.setdefault(spec.option(name), []).append(spec)
    rows = (
        (
            f"`{option.name}`",
            _defaults(option, specs),
            option.expects,
            option.help,
            _listed([f"`{spec.name}`" for spec in specs]),
        )
        for option, specs in takers.items()
    )
    return _markdown(("option", "default", "values", "what it does", "for"), rows)


def _defaults(option: Option, specs: list[OptimizerSpec]) -> str:
    """The default of an option, and those of the optimizers whose names imply another value."""
    presets = {spec.name: spec.preset[option.name] for spec in specs if option.name in spec.preset}
    own = [f"`{_text(value)}` for `{name}`" for name, value in presets.items() if value != option.default]
    return "; ".join([f"`{_text(option.default)}`", *own])


def _text(value: Any) -> str:
    return str(value).lower()


def _listed(names: list[str]) -> str:
    return "all" if len(names) == len(OPTIMIZERS) else ", ".join(names)


def _markdown(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (header, ("---",) * len(header), *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    print(rules_table(), optimizers_table(), options_table(), sep="\n\n")
