"""Claims about the terminal, tables and the card: what a headline says stands there too, and foreign text is text."""

import io
from dataclasses import replace

from helpers.plans_by_hand import findings_of_size
from helpers.tables_by_hand import ACCURACY, results_table, run_of, timed, two_speeds
from rich.console import Console

from hf_critmom.experiments.comparison.rendering.card import comparison_card
from hf_critmom.experiments.comparison.rendering.tables import claims_table
from hf_critmom.experiments.comparison.rendering.terminal import verdict_lines
from hf_critmom.experiments.comparison.statistics.analysis import analyse
from hf_critmom.experiments.comparison.statistics.claims import CLAIMS, parse_claim
from hf_critmom.experiments.comparison.statistics.sequential import Looks
from hf_critmom.experiments.comparison.statistics.verdict import Rule, judge, verdicts


def test_an_arm_that_is_faster_to_one_target_and_slower_to_another_is_named() -> None:
    found = verdicts(judge(two_speeds((2.0, 10.5), (4.0, 7.0)), Rule(ACCURACY, (0.4, 0.8))), CLAIMS)
    console = Console(file=io.StringIO(), width=80)
    console.print(verdict_lines(found, "test"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "critmom against constant: faster to 0.4, slower to 0.8, which the mean hides." in " ".join(shown.split())


def test_a_claim_to_be_first_shows_the_rival_that_decided_it() -> None:
    seeds = range(8)
    table = timed(
        critmom=[3.0 + 0.03 * seed for seed in seeds],
        adamw=[3.0 + 0.03 * seed + 0.02 * (-1) ** seed for seed in seeds],
        constant=[2.2 + 0.25 * (7 * seed % 8) for seed in seeds],
    )
    found = verdicts(judge(table, Rule(ACCURACY, (0.9,))), [parse_claim("critmom < all", ["critmom"])])
    console = Console(file=io.StringIO(), width=120)
    console.print(verdict_lines(found, "test"))
    (line,) = (line for line in console.file.getvalue().splitlines() if "vs all" in line)  # type: ignore[attr-defined]
    assert line.split()[:6] == ["no", "difference", "critmom", "vs", "all", "(adamw)"] and "1.00 (0.99 to 1.01)" in line


def test_targets_that_are_equal_in_four_digits_have_columns_of_their_own() -> None:
    curves = {"constant": [0.1, 0.95121, 0.95121, 0.95124], "critmom": [0.1, 0.95121, 0.95124, 0.95124]}
    runs = [run_of(curve, arm=arm, seed=seed) for arm, curve in curves.items() for seed in range(3)]
    analysis = analyse(results_table(runs), list(curves), "constant", ACCURACY, (0.95121, 0.95124))
    low, high = next(row[3:5] for row in claims_table(analysis).rows if row[0] == "critmom against constant")
    assert low.startswith("1.00") and high.startswith("0.75")


def test_the_level_of_an_interval_is_said_which_repeated_looks_raise() -> None:
    table = timed(critmom=[2.5, 4.4, 3.9, 4.0], constant=[4.0, 4.5, 5.0, 4.4])
    for looks, level in ((Looks.fixed(4), "95 %"), (Looks(3, 20, (3, 4)), " % (over all looks together 95 %)")):
        analysis = analyse(table, ["constant", "critmom"], "constant", ACCURACY, (0.9,), looks=looks)
        assert f"{level}; at each target" in claims_table(analysis).caption


def test_foreign_text_is_no_markup_on_the_card() -> None:
    found = findings_of_size(2, 2, 1, 3)
    model = {"model": "Net_<b>", "width": 8}
    training = {**found.plan.training, "run_name": "a`b"}
    failure = "The run critmom, seed 2 failed: got <class 'Net'> for *args [x](y)."
    found = replace(found, plan=replace(found.plan, model=model, training=training), failures=(failure,))
    card = comparison_card(found, [{}])
    assert "**The run critmom, seed 2 failed: got &lt;class 'Net'&gt; for \\*args \\[x\\](y).**" in card
    assert "<b>" not in card and "<class" not in card and "``run_name=a`b``" in card
