"""Claims about naming arms: those of the comparison that is continued are known by their names."""

import dataclasses
from pathlib import Path

import pytest

from hf_critmom.experiments.comparison.arms.arm import ARMS, TUNED_SUFFIX
from hf_critmom.experiments.comparison.arms.selection import MAX_NAME_LENGTH, get_arms, read_arms
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.script.arms import arms_for

SLOW = dataclasses.replace(ARMS["constant"], name="slow", learning_rate=0.01)


def test_an_arm_of_a_file_or_with_options_is_named_again_without_them() -> None:
    stored = {**get_arms(["constant", "timm:lion[lr=1e-4]", "nesterov[momentum=0.8,name=low]"]), "slow": SLOW}
    lion = next(name for name in stored if "lion" in name)
    again = get_arms(["slow", "critmom", "low", lion], ARMS, stored)
    assert [*again] == ["slow", "critmom", "low", lion]
    assert (again["slow"], again["low"], again[lion]) == (SLOW, stored["low"], stored[lion])


def test_what_runs_code_of_others_is_named_in_full() -> None:
    """A comparison may come from elsewhere: its plan does not decide which class a short name stands for."""
    stored = {"mine": dataclasses.replace(SLOW, name="mine", optimizer="torch.optim.RAdam")}
    with pytest.raises(ComparisonError, match="Unknown arm 'mine'"):
        get_arms(["mine"], ARMS, stored)
    assert [*get_arms(["torch.optim.RAdam[name=mine]"], ARMS, stored)] == ["mine"]


def test_the_table_comes_before_the_plan() -> None:
    other = dataclasses.replace(ARMS["critmom"], learning_rate=0.5)
    assert get_arms(["critmom"], ARMS, {"critmom": other})["critmom"] == ARMS["critmom"]


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "sgd"])
def test_an_optimizer_of_the_trainer_has_the_settings_of_its_kind(optim: str) -> None:
    """Those that the Trainer would pass without flags, 5e-5 and no decay, say nothing about it."""
    known = arms_for(optim)
    for name in ("adamw_torch", "adafactor", "critmom_adamw", "sgd", "schedule_free_sgd", "critmom"):
        if name.startswith("schedule_free"):
            pytest.importorskip("schedulefree")
        (arm,) = get_arms([f"optim:{name}"], known).values()
        like = known["constant" if "sgd" in name or name == "critmom" else "adamw"]
        assert (arm.learning_rate, arm.weight_decay) == (like.learning_rate, like.weight_decay), name
    (own,) = get_arms(["optim:adafactor[lr=0.25]"], known).values()
    assert (own.learning_rate, own.weight_decay) == (0.25, known["adamw"].weight_decay)


def test_an_arm_of_a_file_has_the_settings_of_its_kind_too(tmp_path: Path) -> None:
    file = tmp_path / "arms.toml"
    file.write_text('[mine]\noptimizer = "adamw"\n[heavy]\noptimizer = "sgd"\noptions = { momentum = 0.95 }\n')
    known = arms_for("adamw_torch")
    arms = read_arms(file, known)
    assert (arms["mine"].learning_rate, arms["heavy"].learning_rate) == (None, known["constant"].learning_rate)
    own_tasks = read_arms(file, ARMS)
    assert (own_tasks["mine"].learning_rate, own_tasks["heavy"].learning_rate) == (ARMS["adamw"].learning_rate, None)


def test_a_comparison_goes_on_with_the_settings_that_its_arm_began_with() -> None:
    (arm,) = get_arms(["optim:adafactor"]).values()
    early = dataclasses.replace(arm, learning_rate=5e-5, weight_decay=0.0)
    assert get_arms(["optim:adafactor"], ARMS, {arm.name: early}) == {arm.name: early}
    assert get_arms(["optim:adafactor[lr=0.1]"], ARMS, {arm.name: early})[arm.name].learning_rate == 0.1


def test_names_that_differ_only_in_case_are_refused_unless_the_comparison_has_them() -> None:
    pair = ["Adam=optim:adamw_torch", "adam=optim:adafactor"]
    with pytest.raises(ComparisonError, match="The arms Adam and adam differ only in case"):
        get_arms(pair)
    with pytest.raises(ComparisonError, match="The arms Adam and adam differ only in case"):
        get_arms(pair[1:], ARMS, get_arms(pair[:1]))
    with pytest.raises(ComparisonError, match="The arms critmom and CRITMOM differ only in case"):
        get_arms(["critmom", "CRITMOM=optim:adafactor"])
    with pytest.raises(ComparisonError, match="a name that ends in _tuned"):
        get_arms(["critmom_Tuned=optim:adafactor"])
    stored = {**get_arms(pair[:1]), **get_arms(pair[1:])}
    assert [*get_arms(pair, ARMS, stored)] == ["Adam", "adam"]


@pytest.mark.parametrize("text", ["{}=optim:adafactor", "optim:adafactor[name={}]", "critmom[rule=exact,name={}]"])
def test_a_name_leaves_room_for_that_of_the_tuned_variant(text: str) -> None:
    (arm,) = get_arms([text.format("a" * MAX_NAME_LENGTH)]).values()
    tuned = dataclasses.replace(arm, name=f"{arm.name}{TUNED_SUFFIX}", base=arm.name)
    assert len(tuned.name) == 100
    with pytest.raises(ComparisonError, match=f"cannot name an arm: .*{MAX_NAME_LENGTH} at most"):
        get_arms([text.format("a" * (MAX_NAME_LENGTH + 1))])
