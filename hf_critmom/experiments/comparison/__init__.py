"""Comparisons of methods on a task: arms, runner, statistics, figures and report."""

from hf_critmom.experiments.comparison.arguments import (
    ComparisonArguments,
    ComparisonRequest,
    ComparisonTrainingArguments,
)
from hf_critmom.experiments.comparison.arms import ARMS, Arm
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.report import write_report
from hf_critmom.experiments.comparison.results import find_run
from hf_critmom.experiments.comparison.runner import run_comparison

__all__ = [
    "ARMS",
    "Arm",
    "ComparisonArguments",
    "ComparisonError",
    "ComparisonRequest",
    "ComparisonTrainingArguments",
    "find_run",
    "run_comparison",
    "write_report",
]
