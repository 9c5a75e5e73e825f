"""Figures as files beside a card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from hf_critmom.storage.files import atomic_write

FIGURES_FOLDER = "figures"

_SVG: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "hf-critmom"}
"""Keeps text as text, and makes the files reproducible."""


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Writes figures to ``figures/`` in a folder, each file completely or not at all.

    Args:
        folder: The folder.
        figures: Figures by file name, ``NAME.png``; each is also written as ``NAME.svg``.
    """
    (folder / FIGURES_FOLDER).mkdir(exist_ok=True)
    for name, figure in figures.items():
        file = folder / FIGURES_FOLDER / name
        with atomic_write(file) as partial:
            figure.savefig(partial, format="png", dpi=120)
        figure.set_layout_engine("none")  # keep the layout of the first file in the second
        with mpl.rc_context(_SVG), atomic_write(file.with_suffix(".svg")) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None})
