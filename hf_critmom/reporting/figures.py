"""How figures are stored beside a card."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from hf_critmom.storage.files import atomic_write

FIGURES_FOLDER = "figures"


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Writes figures into a folder's ``figures/``, by file name, each completely or not at all."""
    (folder / FIGURES_FOLDER).mkdir(exist_ok=True)
    for name, figure in figures.items():
        with atomic_write(folder / FIGURES_FOLDER / name) as partial:
            figure.savefig(partial, dpi=120)
