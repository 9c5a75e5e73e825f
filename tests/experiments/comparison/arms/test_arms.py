"""Claims about arms: what the table's methods really do, and what a file of the user's may add to them."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.distributed_programs import Perceptron, points
from helpers.plans_by_hand import plan_of
from transformers import TrainerCallback, TrainingArguments

from hf_critmom import IKFAD, CritMomAdamW, CritMomQHM, CritMomSGD
from hf_critmom.commands import main
from hf_critmom.experiments.comparison import ARMS, Arm, ComparisonError
from hf_critmom.experiments.comparison.arms.arm import ARM_SETS, BASELINES
from hf_critmom.experiments.comparison.arms.selection import get_arms, read_arms
from hf_critmom.experiments.comparison.plan import Trial
from hf_critmom.experiments.comparison.running.execution import ArmTrainer
from hf_critmom.optim import CritMomCompensated, CritMomMatched
from hf_critmom.storage.typed import RecordError, from_json

any_arm = pytest.mark.parametrize("name", ARMS)
STEPS, PEAK = 8, 0.09


class Groups(TrainerCallback):
    """Writes down the first param group of each optimizer step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        self.seen.append({name: value for name, value in optimizer.param_groups[0].items() if name != "params"})


def trained(arm: Arm, folder: Path, **fields: Any) -> tuple[list[dict[str, Any]], ArmTrainer]:
    """A run of `STEPS` steps, continued from the folder's checkpoint if it holds one; every group that it used."""
    args = TrainingArguments(
        **{
            "output_dir": str(folder),
            "use_cpu": True,
            "learning_rate": PEAK if arm.learning_rate is None else arm.learning_rate,
            "weight_decay": 0.01,
            "lr_scheduler_type": "cosine",
            "max_steps": STEPS,
            "per_device_train_batch_size": 16,  # an epoch of 4 steps
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **fields,
        }
    )
    groups = Groups()
    trainer = ArmTrainer(
        arm, args, model=Perceptron(), train_dataset=points(), eval_dataset=points()[:8], callbacks=[groups]
    )
    trainer.train(resume_from_checkpoint=next((str(path) for path in folder.glob("checkpoint-*")), None))
    return groups.seen, trainer


# --------------------------------------------------------------------------------------------------------- the table


@any_arm
def test_every_arm_trains(name: str, tmp_path: Path) -> None:
    groups, trainer = trained(ARMS[name], tmp_path)
    assert len(groups) == STEPS
    for trained_one, fresh in zip(trainer.model.parameters(), Perceptron().parameters(), strict=True):
        assert trained_one.isfinite().all() and not torch.equal(trained_one, fresh)


CLASSES = {
    **dict.fromkeys(("constant", "constant_08", "nesterov", "quarter", "onecycle", "demon"), torch.optim.SGD),
    **dict.fromkeys(("qhm", "critmom_qhm", "critmom_qhm_auto"), CritMomQHM),
    "matched": CritMomMatched,
    "compensated": CritMomCompensated,
    **dict.fromkeys(("critmom", "critmom_exact", "critmom_exponential", "hybrid"), CritMomSGD),
    "ikfad": IKFAD,
    "adamw": torch.optim.AdamW,
    "critmom_adamw": CritMomAdamW,
}


def test_every_arm_is_the_method_that_it_is_called() -> None:
    found = {name: ARMS[name].optimizer_cls_and_kwargs(PEAK)[0] for name in ARMS}
    assert found.pop("schedule_free").__name__ == "AdamWScheduleFree"
    assert found == CLASSES


@pytest.mark.parametrize(("name", "nesterov"), [("constant", False), ("nesterov", True), ("matched", False)])
def test_the_momentum_of_the_baselines_is_really_0_9(name: str, nesterov: bool, tmp_path: Path) -> None:
    groups, _ = trained(ARMS[name], tmp_path)
    assert {group["momentum"] for group in groups} == {0.9}
    assert {(group["nesterov"], group["dampening"]) for group in groups} == {(nesterov, 0)}


@pytest.mark.parametrize("name", ["constant", "nesterov"])
def test_the_baselines_step_as_their_formulas_say(name: str) -> None:
    """v <- 0.9 v + g; constant: p <- p - lr v; Nesterov's: p <- p - lr (g + 0.9 v)."""
    cls, kwargs = ARMS[name].optimizer_cls_and_kwargs(PEAK)
    parameter = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = cls([parameter], **kwargs)
    expected, velocity = parameter.detach().clone(), torch.zeros(2, dtype=torch.float64)
    for _ in range(5):
        optimizer.zero_grad()
        (0.5 * torch.tensor([1.0, 3.0], dtype=torch.float64) * parameter**2).sum().backward()
        optimizer.step()
        gradient = torch.tensor([1.0, 3.0], dtype=torch.float64) * expected
        velocity = 0.9 * velocity + gradient
        expected = expected - PEAK * (velocity if name == "constant" else gradient + 0.9 * velocity)
        torch.testing.assert_close(parameter.detach(), expected)


RULES = {
    "critmom": lambda lr: 1.0 - 2.0 * lr**0.5,
    "critmom_exact": lambda lr: (1.0 - lr**0.5) ** 2,
    "critmom_exponential": lambda lr: torch.tensor(-2.0 * lr**0.5, dtype=torch.float64).exp().item(),
    "hybrid": lambda lr: min(1.0 - 2.0 * lr**0.5, 0.9),
}


@pytest.mark.parametrize("name", RULES)
def test_the_critically_damped_arms_follow_their_rules(name: str, tmp_path: Path) -> None:
    groups, _ = trained(ARMS[name], tmp_path)
    assert groups[0]["lr"] == PEAK
    for group in groups:
        assert group["momentum"] == pytest.approx(RULES[name](group["lr"]), rel=1e-12)


def test_an_arm_without_its_own_settings_uses_those_of_the_comparison() -> None:
    settings = plan_of(training={"learning_rate": 0.3, "weight_decay": 0.2}).settings
    assert settings(ARMS["constant"]) == (0.3, 0.2)
    assert settings(ARMS["adamw"]) == settings(ARMS["critmom_adamw"]) == (1e-3, 0.05)
    assert settings(Arm("own", "sgd", learning_rate=0.5)) == (0.5, 0.2)
    assert settings(Arm("none", "sgd", weight_decay=0.0)) == (0.3, 0.0)
    assert settings(Arm("tried", "sgd", learning_rate=0.5), Trial(2.0, 0.5)) == (1.0, 0.1)


@any_arm
def test_each_trainer_gets_its_own_keyword_arguments(name: str) -> None:
    """It changes the dictionary, which the next run needs as it was."""
    _, kwargs = ARMS[name].optimizer_cls_and_kwargs(0.25)
    assert kwargs["lr"] == 0.25
    kwargs.clear()
    assert ARMS[name].optimizer_cls_and_kwargs(0.25)[1]["lr"] == 0.25


def test_arms_differ_in_name_colour_and_description() -> None:
    assert all(arm.name == name for name, arm in ARMS.items())
    assert all(re.fullmatch("#[0-9A-F]{6}", arm.color) for arm in ARMS.values())
    assert len({arm.color for arm in ARMS.values()}) == len({arm.help for arm in ARMS.values()}) == len(ARMS)


def test_a_set_of_arms_stands_for_its_names() -> None:
    assert [*get_arms(["paper"])] == [*("constant", "matched", "critmom", "hybrid", "onecycle", "ikfad", "adamw")]
    assert {*get_arms(["fair"])} == {*ARM_SETS["paper"], "nesterov", "matched", "demon"}
    assert [*get_arms(["demon", "paper"])] == ["demon", *ARM_SETS["paper"]]
    with pytest.raises(ComparisonError, match="--arms paper constant"):
        get_arms(["paper", "constant"])


def recorded(name: str, record: dict[str, Any]) -> Arm:
    """The arm that a plan on disk gives."""
    return from_json(Arm, {"name": name, **json.loads(json.dumps(record))})


@any_arm
def test_an_arm_is_what_its_record_says(name: str) -> None:
    assert recorded(name, ARMS[name].record()) == ARMS[name]


def test_an_arm_of_an_older_plan_looks_as_it_does_today() -> None:
    assert recorded("constant", {"optimizer": "sgd", "options": {"momentum": 0.9}}) == ARMS["constant"]


@pytest.mark.parametrize("record", [{}, {"options": {}}, {"optimizer": "sgd", "warmth": 3}])
def test_an_arm_of_another_version_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        recorded("bygone", record)


# -------------------------------------------------------------------------------------------------------------- files

WHOLE_TOML = """
[heavy]
optimizer = "sgd"
options = { momentum = 0.95, nesterov = true }
schedule = "onecycle"
learning_rate = 0.05
weight_decay = 0
help = "SGD, heavier"
color = "#123abc"

[warm]
optimizer = "critmom"
options = { rule = "exact", hold = 0.8 }

[constant]
optimizer = "sgd"
options = { momentum = 0.5 }
"""
WHOLE_JSON = {
    "heavy": {
        "optimizer": "sgd",
        "options": {"momentum": 0.95, "nesterov": True},
        "schedule": "onecycle",
        "learning_rate": 0.05,
        "weight_decay": 0,
        "help": "SGD, heavier",
        "color": "#123abc",
    },
    "warm": {"optimizer": "critmom", "options": {"rule": "exact", "hold": 0.8}},
    "constant": {"optimizer": "sgd", "options": {"momentum": 0.5}},
}


@pytest.fixture(params=["toml", "json"])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / f"arms.{request.param}"
    file.write_text(WHOLE_TOML if request.param == "toml" else json.dumps(WHOLE_JSON))
    return file


def test_a_file_sets_every_attribute_of_an_arm(whole: Path) -> None:
    assert read_arms(whole)["heavy"] == Arm(
        name="heavy",
        optimizer="sgd",
        options={"momentum": 0.95, "nesterov": True},
        schedule="onecycle",
        learning_rate=0.05,
        weight_decay=0,
        help="SGD, heavier",
        color="#123abc",
    )


def test_what_a_file_leaves_out_has_the_usual_default(whole: Path) -> None:
    warm = read_arms(whole)["warm"]
    assert (warm.schedule, warm.learning_rate, warm.weight_decay, warm.base) == ("trainer", None, None, None)
    assert "critmom" in warm.help and re.fullmatch("#[0-9A-F]{6}", warm.color)
    assert warm.color not in {arm.color for arm in ARMS.values()}


def test_a_file_adds_to_the_table_or_replaces_arms_of_the_same_name(whole: Path) -> None:
    before = dict(ARMS)
    arms = read_arms(whole)
    assert before == ARMS
    assert list(arms) == [*ARMS, "heavy", "warm"]
    assert arms["constant"].options == {"momentum": 0.5} and arms["critmom"] is ARMS["critmom"]
    assert [arm.options.get("momentum") for arm in get_arms(["heavy", "constant"], arms).values()] == [0.95, 0.5]
    assert get_arms(["paper"], arms)["constant"] is arms["constant"]


def test_arms_of_a_file_train_as_it_says(whole: Path, tmp_path: Path) -> None:
    arms = read_arms(whole)
    heavy, _ = trained(arms["heavy"], tmp_path / "heavy")
    assert all(group["nesterov"] for group in heavy) and heavy[0]["momentum"] == pytest.approx(0.95)
    warm, _ = trained(arms["warm"], tmp_path / "warm")
    assert all(group["momentum"] == pytest.approx(min(RULES["critmom_exact"](group["lr"]), 0.8)) for group in warm)
    constant, _ = trained(arms["constant"], tmp_path / "constant")
    assert {group["momentum"] for group in constant} == {0.5}


def test_arms_of_a_file_are_what_their_records_say(whole: Path) -> None:
    """Also where they replace one of the table, of which a plan's reader knows another colour and other words."""
    for name, arm in read_arms(whole).items():
        assert recorded(name, arm.record()) == arm


def refusal(file: Path) -> str:
    with pytest.raises(ComparisonError) as caught:
        read_arms(file)
    sentence = str(caught.value)
    assert str(file) in sentence and "\n" not in sentence and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("arms.toml", b"[heavy\noptimizer"),
        ("arms.toml", b"[heavy]\n[heavy]\n"),
        ("arms.toml", b"\xff\xfe"),
        ("arms.toml", b""),
        ("arms.json", b""),
        ("arms.json", b"{"),
        ("arms.json", b"[]"),
        ("arms.json", b"{}"),
        ("arms.json", b'[{"optimizer": "sgd"}]'),
        ("arms.json", b"null"),
        ("arms.yaml", b"heavy:\n  optimizer: sgd\n"),
    ],
)
def test_a_file_that_holds_no_arms_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert "TOML" in refusal(tmp_path / name)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.toml")
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (3, "at least its optimizer"),
        ({}, "at least its optimizer"),
        ({"options": {"momentum": 0.9}}, "at least its optimizer"),
        ({"optimizer": "lion"}, "'lion': choose among sgd, adamw"),
        ({"optimizer": ["sgd"]}, "choose among sgd"),
        ({"optimizer": "sgd", "momentum": 0.9}, "unknown momentum: an arm has optimizer, options, schedule"),
        ({"optimizer": "sgd", "name": "other"}, "unknown name"),
        ({"optimizer": "sgd", "base": "constant"}, "unknown base"),
        ({"optimizer": "sgd", "schedule": "cosine"}, "'cosine': choose among trainer, matched"),
        ({"optimizer": "sgd", "schedule": ["matched"]}, "choose among trainer"),
        (
            {"optimizer": "sgd", "learning_rate": 0},
            "learning_rate must be a number above 0 and at most 1,000,000, got 0",
        ),
        ({"optimizer": "sgd", "learning_rate": -0.1}, "learning_rate"),
        ({"optimizer": "sgd", "learning_rate": "0.1"}, "learning_rate"),
        ({"optimizer": "sgd", "learning_rate": True}, "learning_rate"),
        ({"optimizer": "sgd", "learning_rate": None}, "learning_rate"),
        ({"optimizer": "sgd", "weight_decay": -1e-9}, "weight_decay must be a number from 0 to 1,000,000"),
        ({"optimizer": "sgd", "options": [0.9]}, "options must be a table"),
        ({"optimizer": "sgd", "options": {"momentun": 0.9}}, "momentun"),
        ({"optimizer": "sgd", "options": {"momentum": -1}}, "momentum"),
        ({"optimizer": "sgd", "options": {"momentum": "much"}}, "sgd refuses its options"),
        ({"optimizer": "sgd", "options": {"lr": 1.0}}, "without lr and weight_decay"),
        ({"optimizer": "sgd", "options": {"weight_decay": 1.0}}, "without lr and weight_decay"),
        ({"optimizer": "sgd", "options": {"params": []}}, "sgd refuses its options"),
        ({"optimizer": "critmom", "options": {"rule": "cubic"}}, "cubic"),
        ({"optimizer": "critmom", "options": {"momentum": 0.9}}, "momentum"),
        ({"optimizer": "sgd", "color": "blue"}, "color must be like #0072B2"),
        ({"optimizer": "sgd", "help": 3}, "help a string"),
        ({"optimizer": "adamw", "schedule": "demon"}, "the schedule demon"),
        ({"optimizer": "ikfad", "schedule": "onecycle"}, "the schedule onecycle"),
        ({"optimizer": "critmom", "schedule": "matched"}, "the schedule matched"),
        ({"optimizer": "critmom", "schedule": "demon"}, "the schedule demon"),
    ],
)
def test_a_bad_value_is_refused_with_the_file_and_the_arm(values: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "arms.json"
    file.write_text(json.dumps({"fine": {"optimizer": "sgd"}, "odd": values}))
    sentence = refusal(file)
    assert "'odd'" in sentence and said in sentence, sentence


@pytest.mark.parametrize("value", ["nan", "inf", "1979-05-27"])
def test_a_value_that_json_cannot_hold_is_refused(value: str, tmp_path: Path) -> None:
    file = tmp_path / "arms.toml"
    for line in (f"options = {{ dampening = {value} }}", f"weight_decay = {value}"):
        file.write_text(f'[odd]\noptimizer = "sgd"\n{line}\n')
        assert "'odd'" in refusal(file)


@pytest.mark.parametrize("name", ["", "paper", "fair", "a b", "../up", ".hidden", "a/b", "heavy_tuned", "a\nb", "ä"])
def test_a_name_must_be_usable_for_a_folder(name: str, tmp_path: Path) -> None:
    file = tmp_path / "arms.json"
    file.write_text(json.dumps({name: {"optimizer": "sgd"}}))
    assert "cannot name an arm" in refusal(file)


def test_a_file_may_use_every_baseline_optimizer(tmp_path: Path) -> None:
    file = tmp_path / "arms.json"
    file.write_text(json.dumps({f"my-{name}": {"optimizer": name} for name in BASELINES}))
    assert all(f"my-{name}" in read_arms(file) for name in BASELINES)


# ------------------------------------------------------------------------------------------------------ Schedule-Free


def test_without_schedule_free_only_its_arm_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The import system says that there is no such package, as where it is missing."""
    find_spec = importlib.util.find_spec
    missing = lambda name, *words: None if name == "schedulefree" else find_spec(name, *words)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    assert len(get_arms([name for name in ARMS if name != "schedule_free"])) == len(ARMS) - 1
    out = tmp_path / "out"
    assert main(("compare", "--arms", "constant", "schedule_free", "--use_cpu", "--output_dir", str(out))) == 2
    assert "pip install 'schedulefree>=" in capsys.readouterr().err
    assert not out.exists()
    file = tmp_path / "arms.json"
    file.write_text(json.dumps({"free": {"optimizer": "schedule_free_adamw"}}))
    assert "pip install 'schedulefree>=" in refusal(file)


@pytest.mark.parametrize("evaluated", [True, False], ids=["behind-an-evaluation", "between-evaluations"])
def test_schedule_free_continues_bit_for_bit(evaluated: bool, tmp_path: Path) -> None:
    """Its weights differ between training and evaluation, so a checkpoint can hold either."""
    pytest.importorskip("schedulefree")
    evaluations = {"eval_strategy": "steps", "eval_steps": 3 if evaluated else 2}
    undisturbed, whole = trained(ARMS["schedule_free"], tmp_path / "whole", **evaluations)
    killed = tmp_path / "killed"
    first, _ = trained(ARMS["schedule_free"], killed, **evaluations, save_strategy="steps", save_steps=3)
    assert first == undisturbed
    for later in ("checkpoint-6", "checkpoint-8"):
        (killed / later).rename(killed / f"lost-{later}")
    rest, continued = trained(ARMS["schedule_free"], killed, **evaluations)
    assert rest == undisturbed[3:]
    whole.evaluate()
    continued.evaluate()
    for mine, theirs in zip(continued.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_schedule_free_is_tested_and_saved_with_its_averaged_weights(tmp_path: Path) -> None:
    """Weights in training are y = 0.1 z + 0.9 x; x is what the method answers with (arXiv 2405.15682)."""
    pytest.importorskip("schedulefree")
    _, trainer = trained(ARMS["schedule_free"], tmp_path)
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    in_training = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.evaluate()
    assert not any(group["train_mode"] for group in optimizer.param_groups)
    for x, y in zip(trainer.model.parameters(), in_training, strict=True):
        torch.testing.assert_close(y, 0.1 * optimizer.state[x]["z"] + 0.9 * x.detach())
        assert not torch.equal(x, y)
