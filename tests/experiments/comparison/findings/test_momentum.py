"""Claims about ``--measure_curvature``: a comparison says whether momentum can matter, and its results stay."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.launches import MEASURED
from helpers.tables_by_hand import result_of, run_of
from matplotlib.backends.backend_agg import FigureCanvasAgg

from hf_critmom.commands import main
from hf_critmom.experiments.comparison.arms.arm import ARMS
from hf_critmom.experiments.comparison.arms.selection import get_arms
from hf_critmom.experiments.comparison.figures import curvature_figure
from hf_critmom.experiments.comparison.findings.momentum import summarise_curvature

TINY = (
    *("compare", "--width", "2", "--num_train_epochs", "3", "--max_train_samples", "64", "--max_eval_samples", "32"),
    *("--per_device_train_batch_size", "16", "--num_seeds", "2", "--workers", "1", "--use_cpu"),
    *("--arms", "constant", "critmom_qhm", "critmom_qhm_auto", "adamw"),
)


def point(step: int, top: float, *, lr: float = 0.1, low: float | None = None, high: float | None = None) -> Any:
    record = {"step": step, "curvature/top": top, "noise_scale_rows": 8.0}
    if lr:
        record |= {"curvature/mean_step": lr / 0.1, "curvature/top_damping_ratio": 0.5}
    if low is not None:
        record["noise_scale_low"] = low
    if high is not None:
        record |= {"noise_scale_high": high, "noise_scale": (low * high) ** 0.5}
    return record


def measured(*points: Any, arm: str = "constant", seed: int = 0) -> Any:
    return result_of(run_of([0.5], arm=arm, seed=seed) | {"curvature": list(points)})


def test_without_measurements_there_is_no_summary() -> None:
    assert summarise_curvature([measured()], ["constant"], "constant", 64) is None


def test_the_sentence_rests_on_the_baselines_medians_after_the_first_point() -> None:
    points = [point(0, 500.0, low=1.0, high=2.0), *(point(10 * k, 2.0 * k, low=300.0, high=900.0) for k in (1, 2, 3))]
    other = measured(point(5, 900.0), arm="critmom")
    found = summarise_curvature([other, measured(*points)], ["critmom", "constant"], "constant", 64)
    assert found is not None and found.advice is not None
    assert [one.arm for one in found.arms] == ["critmom", "constant"] and found.of == "constant"
    assert found.arms[1].products == (2.0, 4.0, 6.0)
    assert found.advice.role == "hardly"
    for word in ("4", "300", "900", "64", "constant"):
        assert word in found.sentence
    assert found.arms[1].cells() == ["constant", "2 to 500", "2 to 6", "0.5", "520 (90% interval 300 to 900)"]


def test_a_noise_scale_that_most_points_cannot_tell_is_a_bound() -> None:
    found = summarise_curvature(
        [measured(point(1, 1.0, low=200.0), point(2, 1.0, low=300.0), point(3, 1.0, low=400.0, high=500.0))],
        *(["constant"], "constant", 64),
    )
    assert found is not None and found.arms[0].noise is not None
    assert (found.arms[0].noise.value, found.arms[0].noise.low) == (None, 300.0)
    assert found.advice is not None and found.advice.role == "hardly"


def test_arms_measured_at_the_same_steps_share_them_in_the_sentence() -> None:
    alike = [measured(point(0, 1.0), point(5, 1.0), arm=arm) for arm in ("constant", "critmom")]
    found = summarise_curvature(alike, ["constant", "critmom"], "constant", 64)
    assert found is not None and found.measured_at == "steps 0, 5"
    other = [*alike, measured(point(7, 1.0), arm="adamw")]
    found = summarise_curvature(other, ["constant", "critmom", "adamw"], "constant", 64)
    assert found is not None and found.measured_at == "constant and critmom: steps 0, 5; adamw: steps 7"


def test_an_arm_without_momentum_gives_numbers_and_no_sentence() -> None:
    found = summarise_curvature([measured(point(3, 5.0, lr=0.0), arm="adamw")], ["adamw"], "adamw", 64)
    assert found is not None and found.advice is None and found.sentence == ""
    assert found.arms[0].cells()[:4] == ["adamw", "5", "-", "-"]


def test_a_loss_without_positive_curvature_gives_no_sentence() -> None:
    found = summarise_curvature([measured(point(3, -5.0))], ["constant"], "constant", 64)
    assert found is not None and found.sentence == ""


@pytest.mark.parametrize("top", [5.0, -5.0])
def test_the_figure_shows_every_arm_bounds_and_the_batch_size(top: float) -> None:
    arms = {name: ARMS[name] for name in ("constant", "adamw")}
    runs = [
        measured(point(1, 1.0, low=200.0), point(2, 3.0, low=100.0, high=500.0)),
        measured(point(1, top), arm="adamw"),
    ]
    figure = curvature_figure(runs, arms, batch_size=64)
    FigureCanvasAgg(figure).draw()
    upper, lower = figure.axes
    assert [line.get_label() for line in upper.get_lines()] == ["constant", "adamw"]
    assert any(line.get_ydata()[0] == 64 for line in lower.get_lines())


def test_a_set_of_strong_arms_is_what_a_critically_damped_method_has_to_beat() -> None:
    names = ["constant", "constant_08", "nesterov", "quarter", "qhm", "critmom_qhm"]
    assert [*get_arms(["strong"])] == names


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A comparison with and one without the flag."""
    folder = tmp_path_factory.mktemp("comparisons")
    for flag in ((), ("--measure_curvature",)):
        assert main((*TINY, *flag, "--output_dir", str(folder / str(bool(flag))))) == 0
    return {flag: folder / str(flag) for flag in (False, True)}


def results_of(folder: Path) -> dict[str, Any]:
    return {
        str(path.parent.relative_to(folder / "runs")): json.loads(path.read_text())
        for path in sorted(folder.glob("runs/*/*/result.json"))
    }


@pytest.mark.slow
def test_results_are_bit_identical_with_and_without_measuring(folders: dict[bool, Path]) -> None:
    def unmeasured(found: Any) -> Any:
        if isinstance(found, dict):
            return {k: unmeasured(v) for k, v in found.items() if k not in (*MEASURED, "curvature")}
        return [unmeasured(part) for part in found] if isinstance(found, list) else found

    assert unmeasured(results_of(folders[True])) == unmeasured(results_of(folders[False]))


@pytest.mark.slow
def test_the_runs_of_the_first_seed_are_measured_and_automatic_ones_measure_themselves(
    folders: dict[bool, Path],
) -> None:
    for flag, folder in folders.items():
        runs = results_of(folder)
        first, second = sorted({run["seed"] for run in runs.values()})
        for run in runs.values():
            expected = run["arm"] == "critmom_qhm_auto" or (flag and run["seed"] == first)
            assert bool(run["curvature"]) is expected, (run["arm"], run["seed"])
        assert second > first


@pytest.mark.slow
def test_the_clock_of_a_run_is_stopped_during_a_measurement(folders: dict[bool, Path]) -> None:
    run = results_of(folders[True])["constant/seed-42"]
    seconds = sum(record["curvature/seconds"] for record in run["curvature"])
    assert run["wall_seconds"] > seconds
    assert run["train_seconds"] < run["wall_seconds"] - seconds


@pytest.mark.slow
def test_card_and_page_say_whether_momentum_can_matter(folders: dict[bool, Path]) -> None:
    card, page = (folders[True] / name for name in ("README.md", "report.html"))
    for file in (card, page):
        text = file.read_text(encoding="utf-8")
        assert "Can momentum matter here?" in text and "top curvature" in text
    assert "(Measured in the run of constant.)" in card.read_text(encoding="utf-8")
    assert (folders[True] / "figures" / "curvature.png").exists()
    assert "--measure_curvature" in json.loads((folders[True] / "comparison.json").read_text())["command"]


@pytest.mark.slow
def test_a_finished_comparison_stays_as_it_is_under_the_flag(folders: dict[bool, Path]) -> None:
    before = results_of(folders[False])
    assert main((*TINY, "--measure_curvature", "--output_dir", str(folders[False]))) == 0
    assert results_of(folders[False]) == before
