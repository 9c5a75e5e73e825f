"""Claims about the verdicts in the terminal: what a headline says of the targets stands there too."""

import io

from helpers.tables_by_hand import ACCURACY, two_speeds
from rich.console import Console

from hf_critmom.experiments.comparison.rendering.terminal import verdict_lines
from hf_critmom.experiments.comparison.statistics.claims import CLAIMS
from hf_critmom.experiments.comparison.statistics.verdict import Rule, judge, verdicts


def test_an_arm_that_is_faster_to_one_target_and_slower_to_another_is_named() -> None:
    found = verdicts(judge(two_speeds((2.0, 10.5), (4.0, 7.0)), Rule(ACCURACY, (0.4, 0.8))), CLAIMS)
    console = Console(file=io.StringIO(), width=80)
    console.print(verdict_lines(found, "test"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "critmom against constant: faster to 0.4, slower to 0.8, which the mean hides." in " ".join(shown.split())
