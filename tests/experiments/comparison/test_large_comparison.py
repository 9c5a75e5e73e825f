"""Claims about the report of twelve arms, thirty seeds and five targets: it can still be read, and opened."""

from pathlib import Path

import pandas as pd
import pytest
from helpers.plans_by_hand import findings_of_size
from rich.cells import cell_len
from rich.console import Console, Group

from hf_critmom.experiments.comparison.findings.findings import Findings
from hf_critmom.experiments.comparison.findings.sentences import format_ratio
from hf_critmom.experiments.comparison.rendering.page import write_comparison_page
from hf_critmom.experiments.comparison.rendering.page_curves import MAX_EVALUATIONS, MIN_POINTS, drawn_evaluations
from hf_critmom.experiments.comparison.rendering.terminal import terminal_report
from hf_critmom.reporting.page import MAX_PAGE_BYTES


@pytest.fixture(scope="module")
def found() -> Findings:
    return findings_of_size(arms=12, seeds=30, targets=5, evaluations=60, logged=300)


def test_its_page_is_small_and_says_what_it_does_not_draw(found: Findings, tmp_path: Path) -> None:
    page = write_comparison_page(tmp_path, found).read_text()
    assert len(page) < MAX_PAGE_BYTES / 2  # several budgets share what is drawn, but have tables of their own
    assert "Drawn here: at most 55 evaluations of every run, evenly spaced;" in page
    for verdict in found.budgets[0].analysis.verdicts:
        assert format_ratio(verdict.headlines[0].ratio, between="\n") in page


def test_a_terminal_of_80_columns_has_a_line_for_every_arm_and_target_and_for_every_claim(found: Findings) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(Group(*terminal_report(found)))
    lines = capture.get().splitlines()
    assert max(map(cell_len, lines)) <= 80
    analysis = found.budgets[0].analysis
    results = lines[lines.index(next(line for line in lines if line.startswith("┡"))) + 1 :]
    rows = results[: results.index(next(line for line in results if line.startswith("└")))]
    assert [row.split("│")[2].strip() for row in rows] == [f"{target:.4g}" for target in analysis.targets] * 12
    assert [name for row in rows if (name := row.split("│")[1].strip())] == list(analysis.arms)
    for verdict in analysis.verdicts:
        (line,) = [line for line in lines if f" {verdict.claim.arm} vs constant " in line]
        assert line.startswith(verdict.word) and format_ratio(verdict.headlines[0].ratio) in line


@pytest.mark.parametrize(("arms", "seeds", "evaluations"), [(2, 3, 10), (12, 30, 240), (4, 22, 60), (18, 120, 100)])
def test_as_many_evaluations_are_drawn_as_a_page_can_hold(arms: int, seeds: int, evaluations: int) -> None:
    every = pd.MultiIndex.from_product([range(arms), range(seeds), range(evaluations)], names=["arm", "seed", "step"])
    rows = every.to_frame(index=False)
    drawn, omitted = drawn_evaluations(rows)
    assert len(drawn) <= MAX_EVALUATIONS and (omitted == "") == (len(drawn) == len(rows))
    runs = drawn.groupby(["arm", "seed"])["step"]
    assert runs.count().min() == runs.count().max() >= min(MIN_POINTS, evaluations)
    assert set(runs.min()) == {0} and set(runs.max()) == {evaluations - 1}
    assert drawn.groupby(["arm", "step"])["seed"].count().nunique() == 1  # a median is of the same seeds everywhere
    assert (f"the first {drawn['seed'].nunique()} of {seeds} seeds" in omitted) == (drawn["seed"].nunique() < seeds)
