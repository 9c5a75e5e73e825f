"""Claims about naming arms: those of the comparison that is continued are known by their names."""

import dataclasses

import pytest

from hf_critmom.experiments.comparison.arms.arm import ARMS
from hf_critmom.experiments.comparison.arms.selection import get_arms
from hf_critmom.experiments.comparison.errors import ComparisonError

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
