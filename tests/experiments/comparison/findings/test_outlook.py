"""Claims about what a report proposes: how many seeds would probably decide it, by which command, and how it grew."""

import dataclasses
from pathlib import Path

import pytest
from helpers.plans_by_hand import plan_of
from helpers.tables_by_hand import ACCURACY, compared

from hf_critmom.experiments.comparison.findings.history import describe_history
from hf_critmom.experiments.comparison.findings.outlook import outlook
from hf_critmom.experiments.comparison.pilot import pilot_note
from hf_critmom.experiments.comparison.plan import Extension, LookPlan
from hf_critmom.experiments.comparison.records import TaskRecord
from hf_critmom.experiments.comparison.statistics.claims import Claim, parse_claim
from hf_critmom.experiments.comparison.statistics.verdict import NOT_DECIDED, SLOWER, Rule, Verdict, judge, verdicts
from hf_critmom.storage.typed import from_json

BEGUN = Extension("2026-11-28T10:00:00+00:00", "hf-critmom compare", ("constant", "critmom"), (0, 1, 2), (0.9,))


def planned(command="hf-critmom compare --output_dir out", **parts):
    history = (dataclasses.replace(BEGUN, command=command), *parts.pop("history", ()))
    return plan_of(("constant", "critmom"), (0, 1, 2), command=command, history=history, **parts)


def verdict(needed, word=NOT_DECIDED):
    return Verdict(Claim("critmom < constant", "critmom", ("constant",)), word, (), 3, needed=needed)


def test_the_least_number_that_decides_anything_is_proposed_and_what_more_would_decide_is_said():
    found = outlook(
        planned(), Path("out"), [verdict(7), verdict(10), verdict(10), verdict(None), verdict(None, SLOWER)]
    )
    assert found is not None and found.seeds == {7: 1, 10: 3}
    assert found.command.endswith("--num_seeds 7")
    assert found.sentence.startswith("4 more seeds (7 in all) would probably decide 1 of 4 open claims")
    assert "(3 with 10 seeds)" in found.sentence
    one = outlook(planned(), Path("out"), [verdict(4)])
    assert one is not None and one.sentence.startswith("1 more seed (4 in all) would probably decide it")


def test_only_arms_of_claims_that_would_be_decided_get_more_seeds():
    command = "hf-critmom compare --arms constant critmom adamw --num_seeds 3 --output_dir out"
    plan = plan_of(("constant", "critmom", "adamw"), (0, 1, 2), command=command)
    of_adamw = Verdict(Claim("adamw < constant", "adamw", ("constant",)), NOT_DECIDED, (), 3, needed=9)
    found = outlook(plan, Path("out"), [verdict(7), of_adamw])
    assert found is not None and found.sentence.startswith("4 more seeds of constant and critmom (7 in all)")
    assert found.command == "hf-critmom compare --output_dir out --arms constant critmom --num_seeds 7"
    grown = dataclasses.replace(plan, seeds=tuple(range(7)), left_out={"adamw": (3, 4, 5, 6)})
    found = outlook(grown, Path("out"), [verdict(7), of_adamw])  # its seven seeds have not decided the first
    assert found is not None and found.sentence.startswith("6 more seeds of constant and adamw (9 in all)")
    assert found.command.endswith("--arms constant adamw --num_seeds 9")
    gap = dataclasses.replace(plan, seeds=(0, 1, 2, 50, 51), left_out={"adamw": (50, 51)})
    found = outlook(gap, Path("out"), [of_adamw])
    assert found is not None and found.command.endswith("--arms constant adamw --num_seeds 6 --seed 50")
    other = dataclasses.replace(plan, seeds=tuple(range(7)), left_out={"adamw": (3, 4), "constant": (5,)})
    found = outlook(other, Path("out"), [of_adamw])  # of five and six seeds, the first three and the last are the same
    assert found is not None and found.sentence.startswith("5 more seeds of constant and adamw (9 in all)")
    few = dataclasses.replace(of_adamw, needed=4)
    found = outlook(other, Path("out"), [few])  # with seed 3, the first four are
    assert found is not None and found.sentence.startswith("1 more seed of constant and adamw (4 in all)")


@pytest.mark.parametrize("verdicts", [[], [verdict(None)], [verdict(7, SLOWER)]])
def test_without_a_known_number_nothing_is_proposed(verdicts):
    assert outlook(planned(), Path("out"), verdicts) is None


def test_targets_that_only_other_arms_reached_are_not_said_to_be_out_of_reach_of_all():
    arms = ("constant", "critmom", "adamw")
    table = compared(constant=[None] * 8, critmom=[None] * 8, adamw=[2, 3] * 4)
    claims = [parse_claim(text, arms) for text in ("critmom < constant", "adamw < constant")]
    found = verdicts(judge(table, Rule(ACCURACY, (0.9,))), claims)
    plan = plan_of(arms, range(8), command="hf-critmom compare --targets 0.9 --output_dir out")
    (open_one,) = [one for one in found if not one.decided]
    said = outlook(plan, Path("out"), found)
    assert said is not None and said.sentence.startswith("No run that an open claim compares reached 0.9, so more")
    few = plan_of(arms[:2], range(8), command=plan.command)
    alone = outlook(few, Path("out"), [open_one])
    assert alone is not None and alone.sentence.startswith("No run reached 0.9, so more seeds decide nothing.")


def test_other_targets_are_not_proposed_to_runs_that_all_diverged():
    table = compared(constant=[None] * 3, critmom=[None] * 3)
    claims = [parse_claim("critmom < constant", ["constant", "critmom"])]
    for status, proposed in (("finished", True), ("diverged", False)):
        found = verdicts(judge(table.assign(status=status), Rule(ACCURACY, (0.9,))), claims)
        assert (outlook(planned(), Path("out"), found) is not None) is proposed


def test_no_second_pilot_run_is_proposed_whether_a_flag_asked_for_the_first_or_not():
    (found,) = verdicts(
        judge(compared(constant=[None] * 3, critmom=[None] * 3), Rule(ACCURACY, (0.9,))),
        [parse_claim("critmom < constant", ["constant", "critmom"])],
    )
    for command in ("hf-critmom compare --output_dir out", "hf-critmom compare --pilot --output_dir out"):
        given = planned(command)
        assert outlook(given, Path("out"), [found]) is not None
        task = from_json(TaskRecord, {**given.task.content, "notes": [pilot_note("constant", 2042)]})
        assert outlook(dataclasses.replace(given, task=task), Path("out"), [found]) is None


# -------------------------------------------------------------------------------------------------------- the history


def test_a_comparison_without_additions_has_no_history_to_report():
    assert describe_history(planned()) == []


def test_additions_say_when_they_came_and_what_could_have_been_seen_by_then():
    date = "2026-11-29T10:00:00+00:00"
    seeds = Extension(date, "again", seeds=(3, 4, 5), finished=6)
    early = Extension(date, "again", arms=("adamw",), finished=5)
    target = Extension(date, "again", targets=(0.95,), finished=6)
    fresh = Extension("", "again", seeds=(7,))
    plan = planned(looks=LookPlan(3, 3), history=(seeds,))
    assert describe_history(plan) == [
        "On 2026-11-29 seeds 3 to 5 were added after the first analysis (6 runs were finished)."
    ]
    assert describe_history(planned(looks=LookPlan(3, 3), history=(early,))) == [
        "On 2026-11-29 the arm adamw was added before the first analysis (5 runs were finished)."
    ]
    (told,) = describe_history(planned(looks=LookPlan(3, 3), history=(target,)))
    assert told.startswith("On 2026-11-29 the target 0.95 was added after the first analysis") and "exploratory" in told
    assert describe_history(planned(history=(fresh,))) == ["Seed 7 was added before the first run had finished."]


def test_seeds_added_by_until_decided_are_distinguished_from_a_users():
    command = "hf-critmom compare --until_decided"
    grown = Extension("2026-11-29T10:00:00+00:00", command, seeds=(3, 4), finished=6)
    (told,) = describe_history(planned(command, looks=LookPlan(3, 10), history=(grown,)))
    assert told == (
        "On 2026-11-29 seeds 3 and 4 were added by the rule of --until_decided after the first analysis "
        "(6 runs were finished)."
    )
