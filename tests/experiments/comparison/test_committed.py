"""Claims about the comparisons that the repository shows: every file is read, and every card says what its runs say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from hf_critmom.experiments.comparison.findings.findings import read_findings
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.experiments.comparison.rendering.card import comparison_card
from hf_critmom.experiments.comparison.report import figures_of
from hf_critmom.experiments.comparison.results import read_results, read_tuned_runs

COMMITTED = Path(__file__).parents[3] / "model_cards"
NAMES = sorted(path.parent.name for path in COMMITTED.glob("*/comparison.json"))


@pytest.mark.parametrize("name", NAMES)
def test_the_comparisons_of_the_repository_are_read_as_they_are(name: str) -> None:
    folder = COMMITTED / name
    plan = Plan.read(folder)
    results = read_results(folder, plan)
    finished = [run for run in plan.runs() if run in results.runs]
    assert list(results.runs)[: len(finished)] == finished
    every_run = [*results.runs, *results.trials, *read_tuned_runs(folder, plan)]  # also where trials chose before
    read = {run.folder for run in every_run if (folder / run.folder / "result.json").exists()}
    assert read == {file.parent.relative_to(folder) for file in folder.glob("runs/**/result.json")}
    stored = json.loads((folder / "comparison.json").read_text())
    (stored.get("looks") or {}).pop("made", None)  # early plans were looked at less often
    written = plan.as_json()
    for part in stored.keys() - {"arms"}:  # early plans did not record how arms are shown
        assert written[part] == stored[part]
    for arm, record in stored["arms"].items():
        assert written["arms"][arm] == {**written["arms"][arm], **record}


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_card_says_what_its_committed_runs_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(COMMITTED)  # where they were built: a command names the folder as it is called from there
    monkeypatch.setenv("PWD", str(COMMITTED))
    found = read_findings(COMMITTED / name)
    card = comparison_card(found, [figures_of(budget) for budget in found.budgets])
    assert card == (COMMITTED / name / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_comparisons_of_the_repository_can_still_be_reported(name: str, again: Any, tmp_path: Path) -> None:
    """Also those whose plans know neither colours nor tuning, and whose results no budget and learning rate."""
    folder = COMMITTED / name
    shutil.copytree(folder, tmp_path / "out", ignore=shutil.ignore_patterns("README.md", "figures", "*.parquet"))
    printed, _ = again("report", str(tmp_path / "out"))
    plan = json.loads((folder / "comparison.json").read_text())
    mine, theirs = (pd.read_parquet(one / "results.parquet") for one in (tmp_path / "out", folder))
    assert all(arm in printed for arm in theirs["arm"].unique())  # of some plans a part of the arms is run
    kept = [column for column in theirs.columns if column in mine.columns]
    assert {"arm", "seed", "split", "step", "seconds", plan["task"]["metric"]} <= set(kept)
    tables = (table[kept].sort_values(["arm", "seed", "step", "split"], ignore_index=True) for table in (mine, theirs))
    pd.testing.assert_frame_equal(*tables, check_dtype=False)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert len(card.data.eval_results) >= 1 and "## Verdict" in card.text and plan["command"] in card.text
