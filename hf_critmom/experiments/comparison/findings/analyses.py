"""The analyses of a comparison on disk: one for each of its budgets, by the rules of its plan."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import pandas as pd

from hf_critmom.experiments.comparison.growth import count_shared_seeds
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.experiments.comparison.results import Results
from hf_critmom.experiments.comparison.statistics.analysis import Analysis, analyse
from hf_critmom.experiments.comparison.statistics.claims import parse_claim
from hf_critmom.experiments.comparison.statistics.pairing import ended_on, unpaired_seeds
from hf_critmom.experiments.comparison.statistics.sequential import ALPHA, Looks
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.experiments.comparison.statistics.verdict import NOT_TESTED


def analyse_budget(
    plan: Plan,
    results: Results,
    table: pd.DataFrame,
    arms: Sequence[str],
    budget: float | None,
    drift: pd.DataFrame | None = None,
) -> Analysis:
    """The analysis of one budget of a comparison.

    Args:
        plan: The plan.
        results: Results of the finished runs.
        table: The table of results of all budgets.
        arms: Names of the arms and tuned variants that have results, in order.
        budget: The budget in epochs; None if there is only one.
        drift: Accuracies on corrupted images at all budgets, if they were measured.
    """
    rows = table if budget is None else table[table["budget"] == budget]
    budget_drift = drift if budget is None or drift is None else drift[drift["budget"] == budget]
    present = [name for name in arms if (rows["arm"] == name).any()]
    runs = [result for run, result in results.runs.items() if run.epochs == budget]
    baseline = plan.baseline_arm if plan.baseline_arm in present else next(iter(present), "")
    return analyse(
        rows,
        list(dict.fromkeys([*arms, *plan.arms])),
        baseline,
        Metric(plan.task.metric, plan.task.greater_is_better),
        plan.targets,
        exploratory=plan.exploratory_targets,
        user_claims=[
            replace(parse_claim(claim, [*plan.arms, *present]), primary=claim not in plan.later_claims)
            for claim in plan.claims
        ],
        looks=looks_now(plan, results),
        seeds=plan.seeds,
        margin=plan.margin,
        alpha=ALPHA / len(plan.budgets),
        paired=not unpaired_seeds(runs),
        budget=budget,
        drift=budget_drift,
        disturbed=disturbed_arms(results, budget),
        ended_on=ended_on(runs),
    )


def disturbed_arms(results: Results, budget: float | None) -> list[str]:
    """Arms with a run at this budget that shared its device or its cores with other work."""
    runs = [run for run in results.runs if run.epochs == budget]
    return list(dict.fromkeys(run.arm for run in runs if results.runs[run].load.disturbed))


def looks_now(plan: Plan, results: Results) -> Looks:
    """The looks at a comparison's verdicts: one after every seed from the first planned look on.

    Args:
        plan: The plan.
        results: Results of the finished runs.
    """
    planned = plan.planned_looks
    now = max(count_shared_seeds(plan, results.runs), planned.first)
    return Looks(planned.first, planned.last, tuple(range(planned.first, now + 1)))


def undecided_claims(
    plan: Plan, results: Results, table: pd.DataFrame, about: Collection[str]
) -> tuple[list[list[str]], int]:
    """What each claim compares that is not decided yet, and the number of claims that can be tested.

    Args:
        plan: The plan.
        results: Results of the finished runs.
        table: The table of results.
        about: The arms: a claim counts if it compares no others, tuned variants of them included.

    Returns:
        Names of the arms and tuned variants of each open claim; and the number.
    """
    arms = list(dict.fromkeys(table["arm"]))
    verdicts = [
        verdict
        for budget in plan.budgets
        for verdict in analyse_budget(plan, results, table, arms, budget).verdicts
        if verdict.word != NOT_TESTED and verdict.arms <= {*about}
    ]
    return [sorted(verdict.compared) for verdict in verdicts if not verdict.decided], len(verdicts)
