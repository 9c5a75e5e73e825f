"""Claims about pilot runs: where nobody gives targets, one run with a seed of its own sets them before the plan."""

import json
import shlex
from pathlib import Path

import pytest
from helpers.image_data import random_images, write_folder
from helpers.plans_by_hand import plan_of
from helpers.tables_by_hand import result_of, run_of

from hf_critmom.commands import main
from hf_critmom.experiments.comparison import runner
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.findings.findings import read_findings
from hf_critmom.experiments.comparison.pilot import pilot_folder, pilot_plan, pilot_targets, remove_other_pilot
from hf_critmom.experiments.comparison.plan import Plan, Run, Tuning
from hf_critmom.experiments.comparison.results import read_results

TINY = (
    *("compare", "--width", "2", "--per_device_train_batch_size", "16", "--use_cpu", "--workers", "1"),
    *("--arms", "constant", "critmom", "--num_seeds", "1", "--evaluations_per_epoch", "2", "--threads_per_worker", "1"),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of one's own, whose two classes are dark and bright."""
    folder = tmp_path_factory.mktemp("own") / "shades"
    pixels = random_images(120)
    labels = [place % 2 for place in range(120)]
    for place, label in enumerate(labels):
        pixels[place] = pixels[place] // 2 + 127 * label
    return write_folder(folder, pixels, labels)


def compare(*words: str, folder: Path) -> int:
    return main((*TINY, *words, "--output_dir", str(folder)))


def test_data_of_ones_own_get_targets_from_a_pilot_run(images: Path, tmp_path: Path) -> None:
    words = ("--task", str(images), "--num_train_epochs", "4", "--learning_rate", "0.02")
    folder = tmp_path / "out"
    assert compare(*words, folder=folder) == 0
    plan = Plan.read(folder)
    assert not pilot_folder(folder).exists() and set(plan.arms) == {"constant", "critmom"}
    assert any("a pilot run of constant with the seed 2042" in note for note in plan.task.notes)
    assert "a pilot run of constant with the seed 2042" in (folder / "README.md").read_text()

    pilot = tmp_path / "pilot"  # the same run, made as one of a comparison
    assert compare(*words, "--seed", "2042", "--targets", "0.99", folder=pilot) == 0
    result = read_results(pilot, Plan.read(pilot)).runs[Run("constant", 2042)]
    assert plan.targets == tuple(sorted(pilot_targets(result, "constant", "accuracy", greater_is_better=True)))

    made = {file: file.stat().st_mtime_ns for file in folder.glob("runs/**/result.json")}
    pilot_folder(folder).mkdir()  # as a command leaves it that was interrupted after the pilot run
    assert compare(*words, "--num_seeds", "2", folder=folder) == 0  # goes on with the targets of the plan
    assert not pilot_folder(folder).exists()
    assert Plan.read(folder).targets == plan.targets and Plan.read(folder).seeds == (42, 43)
    assert made.items() <= {file: file.stat().st_mtime_ns for file in folder.glob("runs/**/result.json")}.items()


def test_a_pilot_run_that_sets_no_targets_ends_the_command_and_another_one_can_follow(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    words = ("--task", str(images), "--num_train_epochs", "4")
    for _ in range(2):
        assert compare(*words, "--learning_rate", "1e6", folder=folder) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "sets no targets" in line]
        assert "pilot run of constant diverged" in line and "--learning_rate" in line
    assert not list(folder.glob("runs/**/result.json"))
    assert compare(*words, "--learning_rate", "0.02", folder=folder) == 0
    assert Plan.read(folder).training["learning_rate"] == 0.02


def test_an_interrupted_pilot_run_is_continued_whatever_is_measured_then(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise ComparisonError("It was interrupted.")

    monkeypatch.setattr(runner, "with_pilot_targets", interrupt)
    own = ("compare", "--task", str(images), "--width", "2", "--arms", "constant", "--num_seeds", "1", "--use_cpu")
    short = ("--num_train_epochs", "2", "--per_device_train_batch_size", "16", "--workers", "1")
    folder, made = tmp_path / "out", []
    for evaluation_seconds, threads, flags in ((0.0, 1, ()), (1e9, 2, ()), (1e9, 2, ("--learning_rate", "0.02"))):
        measured = (1.0, evaluation_seconds)
        monkeypatch.setattr(runner, "try_arms", lambda *_, measured=measured: measured)
        monkeypatch.setattr(runner, "choose_threads", lambda *_, threads=threads: threads)
        assert main((*own, *short, *flags, "--output_dir", str(folder))) == 2
        plan, (file,) = Plan.read(pilot_folder(folder)), pilot_folder(folder).glob("runs/**/result.json")
        made.append((file.stat().st_mtime_ns, plan.training.get("evaluations_per_epoch", 1), plan.threads))
    assert made[0] == made[1] and made[0][1:] == (4, 1)
    assert made[2][1:] == (1, 2)  # under other conditions it is another run, for which it is measured anew


def test_targets_and_a_pilot_run_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--pilot", "--targets", "0.5", folder=tmp_path / "out") == 2
    assert "--pilot sets the targets itself" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_metric_without_targets_gets_them_from_a_pilot_run(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("\n\n".join(f"the {place} small cats sat on {place} mats and saw {place} dogs" * 3
                                for place in range(300)))  # fmt: skip
    sizes = ("--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2", "--block_size", "32")
    words = ("compare", "--train_file", str(file), "--metric", "perplexity", *sizes, "--use_cpu", "--workers", "1")
    folder = tmp_path / "out"
    more = ("--arms", "adamw", "--num_seeds", "1", "--max_train_samples", "64", "--max_eval_samples", "8")
    assert main((*words, *more, "--output_dir", str(folder))) == 0
    plan = Plan.read(folder)
    assert len(plan.targets) == 3 and list(plan.targets) == sorted(plan.targets, reverse=True)


@pytest.mark.parametrize("last", [0.9, 0.51, 0.5000002])
def test_targets_lie_within_the_improvement_however_small_it_is(last: float) -> None:
    result = result_of(run_of([0.5, last, 0.4]))
    targets = pilot_targets(result, "constant", "accuracy", greater_is_better=True)
    assert [(target - 0.5) / (last - 0.5) for target in targets] == pytest.approx([0.5, 0.75, 0.9], abs=0.01)
    losses = [one.values["loss"] for one in result.evaluations]
    targets = pilot_targets(result_of(run_of([0.5, last])), "constant", "loss", greater_is_better=False)
    assert losses[0] > targets[0] > targets[1] > targets[2] > losses[1]


def test_targets_out_of_reach_lead_to_a_command_that_can_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--max_train_samples", "256", "--max_eval_samples", "64", "--num_train_epochs", "2")
    assert compare(*few, "--targets", "0.999", "1.0", folder=tmp_path / "out") == 0
    outlook = read_findings(tmp_path / "out").outlook
    assert outlook is not None and not outlook.seeds
    assert outlook.sentence.startswith("No run reached 0.999 or 1, so more seeds decide nothing.")
    for name in ("README.md", "report.html"):
        assert "so more seeds decide nothing" in (tmp_path / "out" / name).read_text()
    assert outlook.command in (tmp_path / "out" / "README.md").read_text()
    _, *argv = shlex.split(outlook.command)
    assert "--targets" not in argv and argv[-2:] == ["--output_dir", "out-pilot"]
    assert main((*argv[:-1], "out")) == 2  # where targets are fixed, a pilot run cannot set others
    assert "without a pilot run: leave --pilot out, or choose another --output_dir" in capsys.readouterr().err
    assert main(argv) == 0
    assert main(argv) == 0  # the same command continues, and finds nothing to do
    plan = Plan.read(tmp_path / "out-pilot")
    assert len(plan.targets) >= 1 and plan.seeds == (42,) and set(plan.arms) == {"constant", "critmom"}
    again = read_findings(tmp_path / "out-pilot").outlook
    assert again is None or again.seeds  # a second pilot run would set the same targets


def test_the_pilot_run_is_one_of_the_baseline_with_the_smallest_budget_and_a_seed_of_its_own(tmp_path: Path) -> None:
    requested = plan_of(
        ("adamw", "constant"),
        (2042, 2043),
        baseline="constant",
        training={"num_train_epochs": [2.0, 8.0]},
        claims=("adamw < constant",),
        tuning=Tuning((1.0,), (1.0,), 2044),
    )
    plan = pilot_plan(requested)
    assert plan.runs() == [Run("constant", 2045, 2.0)] and plan.trials() == [] and plan.claims == ()
    place = tmp_path / ".pilot"
    place.mkdir()
    plan.write(place)
    remove_other_pilot(place, plan)
    assert place.exists()
    (place / "comparison.json").write_text(json.dumps({**plan.as_json(), "training": {"num_train_epochs": [3.0]}}))
    remove_other_pilot(place, plan)
    assert not place.exists()
