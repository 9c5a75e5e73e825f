"""Claims about the figures of a comparison: they can be read, and drawing them warns of nothing, whatever came out."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.tables_by_hand import ACCURACY, STEPS_PER_EPOCH, reaching_at, result_of, results_table, run_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from hf_critmom import damping_ratio
from hf_critmom.experiments.comparison import ARMS, Arm
from hf_critmom.experiments.comparison.figures import (
    damping_figure,
    metric_figure,
    reach_figure,
    speed_figure,
    tuning_figure,
)
from hf_critmom.experiments.comparison.plan import Trial
from hf_critmom.experiments.comparison.statistics.analysis import Analysis, analyse
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.experiments.comparison.tuning import JudgedTrial
from hf_critmom.reporting.figures import write_figures
from hf_critmom.reporting.page import readable_color

pytestmark = pytest.mark.filterwarnings("error")
TARGETS = (0.5, 0.9)


def logged(run: dict[str, Any], momentum: float | None) -> dict[str, Any]:
    """A run with a training log of cosine decay, as result.json holds it."""
    log = []
    for step in range(1, run["steps"] + 1):
        lr = 0.05 * (1.0 + math.cos(math.pi * (step - 1) / 60.0))
        record = {"step": step, "epoch": step / STEPS_PER_EPOCH, "loss": 1.0, "learning_rate": lr}
        if momentum is not None:
            record |= {"momentum": momentum, "damping_ratio": damping_ratio(momentum, lr)}
        log.append(record)
    return {**run, "training_log": log}


def runs_of(seeds: int, *epochs: int | None, names: tuple[str, ...] = tuple(ARMS), **changes: Any) -> list[Any]:
    """Runs of the first arms of the table, which reach 0.9 in these epochs of six with every seed, or never."""
    momenta = {name: None if name == "ikfad" else 0.9 - 0.01 * index for index, name in enumerate(ARMS)}
    return [
        logged(run_of(reaching_at(epoch), arm=arm, seed=seed) | changes, momenta.get(arm, 0.9))
        for arm, epoch in zip(names, epochs, strict=False)
        for seed in range(seeds)
    ]


def diverged(arm: str, seed: int, *accuracies: float) -> dict[str, Any]:
    run = run_of(list(accuracies), arm=arm, seed=seed, status="diverged")
    run = logged(run | {"steps": run["steps"] or 1}, 0.9)
    run["test"] = {"loss": None, "accuracy": 0.1}
    return run


THREE = ("constant", "critmom", "hybrid")
CASES: dict[str, list[dict[str, Any]]] = {
    "three-seeds": runs_of(3, 5, 3, 3, names=THREE),
    "one-seed": runs_of(1, 5, 3, 3, names=THREE),
    "one-arm": runs_of(2, 3, names=THREE),
    "one-evaluation": [logged(run_of([0.95], arm=arm), 0.9) for arm in THREE],
    "nobody-arrives": runs_of(2, None, None, None, names=THREE),
    "some-arrive": [*runs_of(2, 3, None, names=THREE), logged(run_of(reaching_at(4), arm="critmom", seed=2), 0.8)],
    "no-seed-in-common": [run | {"seed": number} for number, run in enumerate(runs_of(1, 2, 3, names=THREE))],
    "one-arm-diverged": [*runs_of(2, 3, names=THREE), diverged("critmom", 0, 0.1), diverged("critmom", 1)],
    "all-diverged": [diverged(arm, seed) for arm in THREE for seed in (0, 1)],
    "without-momentum": runs_of(1, 3, names=("ikfad",)),
    "thirteen-arms": runs_of(3, *(1, 2, 3, 4, 5, 6, None) * 2),
}
any_case = pytest.mark.parametrize("case", CASES)


def analysed(table: pd.DataFrame, *arms: str, metric: Metric = ACCURACY, targets: Any = (0.9,)) -> Analysis:
    """The analysis of a table; the first arm is the baseline."""
    return analyse(table, arms, arms[0], metric, targets)


def figures_of(runs: list[dict[str, Any]], metric: Metric = ACCURACY, targets: Any = TARGETS) -> dict[str, Figure]:
    table = results_table(runs)
    present = set(table["arm"])
    arms = {name: arm for name, arm in ARMS.items() if name in present}
    analysis = analysed(table, *arms, metric=metric, targets=targets)
    figures = {
        "metric": metric_figure(analysis, arms),
        "damping": damping_figure([result_of(run) for run in runs], arms),
        "reach": reach_figure(analysis, arms),
    }
    if len(arms) > 1:
        figures["speed"] = speed_figure(analysis, arms)
    return figures


def ink(file: Path) -> float:
    """Share of a picture's pixels that are not white."""
    return float((np.asarray(Image.open(file).convert("L")) < 250).mean())


@any_case
def test_every_figure_is_a_picture_of_a_cards_width_whatever_came_out(case: str, tmp_path: Path) -> None:
    figures = figures_of(CASES[case])
    write_figures(tmp_path, {f"{name}.png": figure for name, figure in figures.items()})
    files = {f"{name}.{kind}" for name in figures for kind in ("png", "svg")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == files
    for file in (tmp_path / "figures").glob("*.svg"):
        assert file.stat().st_size < 400_000 and "</svg>" in file.read_text(encoding="utf-8")[-20:]
    for file in (tmp_path / "figures").glob("*.png"):
        with Image.open(file) as picture:
            width, height = picture.size
            assert picture.format == "PNG" and width == 864 and 250 <= height <= 1600, (file.name, picture.size)
        assert 5_000 < file.stat().st_size < 300_000
        assert 0.005 < ink(file) < 0.6


@pytest.mark.parametrize("case", ["three-seeds", "nobody-arrives", "no-seed-in-common", "thirteen-arms"])
def test_nothing_is_drawn_outside_the_figure(case: str) -> None:
    for name, figure in figures_of(CASES[case]).items():
        assert_inside(figure, name)


@pytest.mark.parametrize("length", [22, 94])
def test_long_names_are_not_cut_off_by_the_figure(length: int) -> None:
    arms = {name: Arm(name, "sgd") for name in (f"{number:02d}".ljust(length, "x") for number in range(9))}
    runs = runs_of(2, *[3] * 9, names=tuple(arms))
    table = results_table(runs)
    analysis = analysed(table, *arms)
    figures = [metric_figure(analysis, arms), reach_figure(analysis, arms), speed_figure(analysis, arms)]
    for figure in [*figures, damping_figure([result_of(run) for run in runs], arms)]:
        assert_inside(figure, figure.axes[0].get_title())
        assert all(axes.get_window_extent().width > 100 for axes in figure.axes)


def assert_inside(figure: Figure, name: str) -> None:
    FigureCanvasAgg(figure).draw()
    whole = figure.bbox
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        for part in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts):
            if not (part.get_text() and part.get_visible()):
                continue
            box = part.get_window_extent()
            assert whole.x0 <= box.x0 and box.x1 <= whole.x1 + 1, (name, part.get_text())
            assert whole.y0 <= box.y0 and box.y1 <= whole.y1 + 1, (name, part.get_text())
        assert all(whole.x0 <= label.get_window_extent().x0 for label in axes.get_yticklabels() if label.get_text())
    for part in (*figure.legends, *figure.texts):
        box = part.get_window_extent()
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1, name


@pytest.mark.parametrize("name", ["metric", "damping", "reach"])
def test_an_arm_has_one_colour_throughout_which_stands_out_from_white(name: str) -> None:
    figure = figures_of(CASES["thirteen-arms"])[name]
    shown = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    assert len(shown) == 1
    found = {
        text.get_text(): to_hex(handle.get_color()).upper()  # type: ignore[attr-defined]
        for handle, text in zip(shown[0].legend_handles, shown[0].get_texts(), strict=True)
    }
    left_out = {"damping": {"ikfad"}}.get(name, set())
    shown_colors = {arm: readable_color(ARMS[arm].color, "light").upper() for arm in ARMS}
    assert found == {arm: shown_colors[arm] for arm in [*ARMS][:14] if arm not in left_out}


def test_the_metric_is_shown_for_every_seed_and_as_their_median() -> None:
    runs = [run_of([0.1 * seed, 0.2 * seed, 0.3 * seed], arm="critmom", seed=seed) for seed in (1, 2, 3)]
    axes = metric_figure(analysed(results_table(runs), "critmom", targets=[0.5]), {"critmom": ARMS["critmom"]}).axes[0]
    curves = [np.asarray(line.get_ydata()) for line in axes.get_lines()[:4]]
    for seed, curve in enumerate(curves[:3], start=1):
        np.testing.assert_allclose(curve, [0.1 * seed, 0.2 * seed, 0.3 * seed])
    np.testing.assert_allclose(curves[3], [0.2, 0.4, 0.6])
    assert axes.get_lines()[3].get_linewidth() > 2 * axes.get_lines()[0].get_linewidth()
    assert [line.get_ydata()[0] for line in axes.get_lines()[4:]] == [0.5]


def test_the_reach_curve_steps_up_where_seeds_arrive_and_runs_to_the_end() -> None:
    runs = [run_of(reaching_at(epoch), arm="critmom", seed=seed) for seed, epoch in enumerate((2, 4, None))]
    figure = reach_figure(analysed(results_table(runs), "critmom"), {"critmom": ARMS["critmom"]})
    (line,) = figure.axes[0].get_lines()
    points = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert points[0.0] == 0.0
    assert [points[20.0], points[40.0], points[60.0]] == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert line.get_drawstyle() == "steps-post"


def test_a_jump_at_the_last_evaluation_is_seen_before_the_frame() -> None:
    runs = [run_of(reaching_at(epoch), arm="critmom", seed=seed) for seed, epoch in enumerate((6, None))]
    axes = reach_figure(analysed(results_table(runs), "critmom"), {"critmom": ARMS["critmom"]}).axes[0]
    (line,) = axes.get_lines()
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True))[60.0] == 0.5
    assert axes.get_xlim()[1] > 60.0 and line.get_xdata()[-1] > 60.0


def test_the_ratio_of_adam_is_not_drawn_beside_those_of_sgd() -> None:
    names = ("constant", "adamw")
    upper, lower = damping_figure(
        [result_of(run) for run in runs_of(1, 3, 3, names=names)], {n: ARMS[n] for n in names}
    ).axes
    assert len(upper.get_lines()) == 2 and [line.get_label() for line in lower.get_lines()][:1] == ["constant"]
    assert not any(line.get_label() == "adamw" and len(line.get_xdata()) for line in lower.get_lines())


def test_regimes_are_shaded_where_the_damping_ratio_is_below_1() -> None:
    _, lower = damping_figure(
        [result_of(run) for run in CASES["three-seeds"]], {name: ARMS[name] for name in THREE}
    ).axes
    assert {text.get_text() for text in lower.texts} == {"underdamped", "overdamped"}
    (shade,) = lower.patches
    bottom, top = shade.get_extents().transformed(lower.transData.inverted()).intervaly
    assert top == pytest.approx(1.0) and bottom == pytest.approx(lower.get_ylim()[0])


@pytest.mark.parametrize(
    ("mine", "theirs", "side"),
    [([2, 2], [4, 4], ""), ([None, None], [4, 4], ">"), ([2, 2], [None, None], "<"), ([2, None], [None, 2], None)],
)
def test_a_bound_is_a_ring_with_an_arrowhead_at_the_frame(mine: list[Any], theirs: list[Any], side: str | None) -> None:
    runs = [run_of(reaching_at(epoch), arm="critmom", seed=seed) for seed, epoch in enumerate(mine)]
    runs += [run_of(reaching_at(epoch), arm="constant", seed=seed) for seed, epoch in enumerate(theirs)]
    arms = {name: ARMS[name] for name in ("constant", "critmom")}
    axes = speed_figure(analysed(results_table(runs), *arms), arms).axes[0]
    drawn = {line.get_marker(): line for line in axes.get_lines() if line.get_marker() != "None"}
    assert [text.get_text() for text in axes.texts][1:] == ([] if drawn else ["open: not every seed reached it"])
    assert set(drawn) == ({"o", side} - {""} if side is not None else set())
    if drawn:
        assert drawn["o"].get_fillstyle() == ("none" if side else "full")
    if side:
        assert drawn[side].get_xdata()[0] == pytest.approx(axes.get_xlim()[1 if side == ">" else 0])


def test_every_row_is_labelled_with_its_arm_under_its_target() -> None:
    axes = figures_of(CASES["three-seeds"])["speed"].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["", "critmom", "hybrid"] * 2
    assert [text.get_text() for text in axes.texts if text.get_fontweight() == "bold"] == [
        "accuracy 0.5",
        "accuracy 0.9",
    ]


def test_text_is_large_and_dark_enough() -> None:
    for figure in figures_of(CASES["some-arrive"]).values():
        FigureCanvasAgg(figure).draw()
        for axes in figure.axes:
            for text in (*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes.title):
                assert text.get_fontsize() >= 9 and max(to_rgb(text.get_color())) <= 0.35


def test_a_ratio_is_drawn_where_it_is_or_hollow_where_the_axis_ends() -> None:
    runs = [run_of(reaching_at(2), arm="constant"), run_of(reaching_at(6), arm="critmom")]
    for slow, place, style in ((60, 3.0, "full"), (6000, None, "none")):
        table = results_table(runs)
        table.loc[table["step"] == 60, "step"] = slow
        arms = {name: ARMS[name] for name in ("constant", "critmom")}
        axes = speed_figure(analysed(table, *arms), arms).axes[0]
        (point,) = (line for line in axes.get_lines() if line.get_marker() == "o" and len(line.get_xdata()))
        start, end = axes.get_xlim()
        assert start == pytest.approx(1.0 / end) and start < point.get_xdata()[0] < end
        assert point.get_fillstyle() == style
        assert place is None or point.get_xdata()[0] == pytest.approx(place)
    immediate = results_table([run_of(reaching_at(1), arm="constant"), run_of(reaching_at(6), arm="critmom")])
    (axes, *_) = speed_figure(analysed(immediate, *arms), arms).axes
    assert "none" in {line.get_fillstyle() for line in axes.get_lines() if line.get_marker() == "o"}  # a bound


def test_a_pair_without_a_common_seed_is_marked() -> None:
    figure = figures_of(CASES["no-seed-in-common"])["speed"]
    said = {text.get_text() for text in figure.axes[0].texts if text.get_fontweight() != "bold"}
    assert said == {"no seed in common"}


def test_a_metric_that_falls_and_is_sometimes_infinite_is_drawn(tmp_path: Path) -> None:
    runs = runs_of(2, 5, 3, names=("constant", "critmom"))
    runs[0]["evaluations"][0]["loss"] = None  # as an overflow is recorded
    figures = figures_of(runs, Metric("loss", greater_is_better=False), (0.11,))
    assert figures["metric"].axes[0].get_yscale() == "log"
    write_figures(tmp_path, {f"{name}.png": figure for name, figure in figures.items()})


def test_a_loss_that_falls_below_zero_is_drawn_to_its_end() -> None:
    runs = runs_of(2, 5, 3, names=("constant", "critmom"))
    for run in runs:
        for at, evaluation in enumerate(run["evaluations"]):
            evaluation["loss"] = 1.0 - at
    (axes,) = figures_of(runs, Metric("loss", greater_is_better=False), (0.5, -2.0))["metric"].axes
    low, high = axes.get_ylim()
    assert axes.get_yscale() == "linear" and low <= -4.0 and high >= 1.0


def test_tuned_variants_differ_from_their_arms_in_their_line(tmp_path: Path) -> None:
    runs = runs_of(2, 5, 3, names=("constant", "critmom"))
    runs += [{**run, "arm": f"{run['arm']}_tuned"} for run in runs]
    own = {name: ARMS[name] for name in ("constant", "critmom")}
    tuned = {f"{name}_tuned": Arm(**{**vars(arm), "name": f"{name}_tuned", "base": name}) for name, arm in own.items()}
    figure = speed_figure(analysed(results_table(runs), *own, *tuned, targets=TARGETS), own | tuned)
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    lines = [line for line in axes.get_lines() if len(line.get_ydata()) == 2 and line.get_marker() == "None"]
    styles = {names[int(line.get_ydata()[0])]: line.get_linestyle() for line in lines[:-1]}
    assert styles == {"critmom": "-", "constant_tuned": "--", "critmom_tuned": "--"}


# -------------------------------------------------------------------------------------------------------------- tuning


def trial(rate: float, decay: float, value: float | None, arm: str = "constant") -> JudgedTrial:
    steps = None if value is None else 100.0
    return JudgedTrial(arm, None, Trial(rate, decay), 0.1 * rate, 5e-4 * decay, value, steps)


@pytest.mark.parametrize(
    ("rates", "decays", "scale"),
    [((0.3, 1.0, 3.0), (1.0,), "log"), ((0.3, 1.0), (0.0, 1.0), "log"), ((1.0,), (0.0, 1.0, 10.0), "symlog")],
)
def test_trials_are_drawn_over_what_was_varied(
    rates: tuple[float, ...], decays: tuple[float, ...], scale: str, tmp_path: Path
) -> None:
    trials = [trial(rate, decay, 0.9 - 0.1 * rate) for rate in rates for decay in decays]
    drawn = tuning_figure([replace(trials[0], chosen=True), *trials[1:]], ACCURACY, {"constant": ARMS["constant"]})
    assert drawn is not None
    (axes,) = drawn.axes
    assert axes.get_xscale() == scale
    *_, ring = axes.lines
    at = trials[0].weight_decay if scale == "symlog" else trials[0].learning_rate
    assert np.asarray(ring.get_xdata()).tolist() == [at]
    write_figures(tmp_path, {"tuning.png": drawn})


def test_one_trial_of_each_arm_is_no_curve() -> None:
    trials = [trial(1.0, 1.0, 0.9), trial(3.0, 1.0, None), trial(1.0, 1.0, 0.8, "critmom")]
    assert tuning_figure(trials, ACCURACY, {name: ARMS[name] for name in ("constant", "critmom")}) is None
    assert tuning_figure([], ACCURACY, {}) is None


def test_factors_of_a_weight_decay_of_zero_are_no_curve() -> None:
    trials = [trial(1.0, 0.0, value) for value in (0.8, 0.8, 0.8)]
    assert tuning_figure(trials, ACCURACY, {"constant": ARMS["constant"]}) is None
