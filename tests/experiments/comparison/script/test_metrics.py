"""Claims about a script's metric: which values of it are better, and what happens if that was judged wrongly."""

import json
from pathlib import Path

import pytest
from helpers.script_comparisons import ARGUMENTS, compare, sentence_in, write_script

from hf_critmom.experiments.comparison.arguments import ComparisonArguments
from hf_critmom.experiments.comparison.plan import PLAN_FILE_FORMAT, Plan
from hf_critmom.experiments.comparison.script.arguments import ScriptArguments, ScriptRequest
from hf_critmom.experiments.comparison.script.command_line import Script

LESS = "loss Loss valLoss val_loss_mean ppl nll bpb bits_per_byte mape WER error_rate top5_error fid"
GREATER = "accuracy answer power exact_match_answer f1 rouge1 tokens_per_second neg_mean_squared_error"


@pytest.mark.parametrize(("metrics", "greater"), [(LESS, False), (GREATER, True)])
def test_the_words_of_a_metrics_name_say_which_values_are_better(metrics: str, greater: bool) -> None:
    for metric in metrics.split():
        request = ScriptRequest(ComparisonArguments(), ScriptArguments(metric=f"eval_{metric}"), Script("train.py"))
        assert request.greater_is_better is greater, metric


def test_a_wrong_direction_is_said_by_the_pilot_run_and_a_stored_one_is_kept(
    warm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = "trainer.compute_metrics = lambda prediction: {'ppl': 2.0 - accuracy(prediction)['accuracy']}\n"
    script, folder = write_script(tmp_path, train=f"{measure}trainer.train()"), tmp_path / "out"
    few = ("--arms", "adamw", "--num_seeds", "1", "--metric", "ppl")
    arguments = (*ARGUMENTS, "--learning_rate", "0.05", "--eval_strategy", "steps", "--eval_steps", "4")
    assert compare(warm, script, folder, *few, "--greater_is_better", "true", arguments=arguments) == 2
    said = sentence_in(capsys.readouterr().err)
    assert "eval_ppl, of which larger values count as better, does not improve" in said
    assert "give --greater_is_better false, --targets" in said
    assert compare(warm, script, folder, *few, arguments=arguments) == 0
    plan = Plan.read(folder)
    assert plan.task.greater_is_better is False and list(plan.targets) == sorted(plan.targets, reverse=True)

    file = folder / PLAN_FILE_FORMAT.name  # as a version stored it that judged the name otherwise
    content = json.loads(file.read_text())
    content["task"]["greater_is_better"] = True
    content["targets"].sort()
    file.write_text(json.dumps(content))
    before = Plan.read(folder)
    assert compare(warm, script, folder, *few, "--num_seeds", "2", arguments=arguments) == 0
    after = Plan.read(folder)
    assert after.task == before.task and after.targets == before.targets and len(after.seeds) == 2
