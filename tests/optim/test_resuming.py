"""Claims about loading state dicts into the optimizers themselves, under any Trainer or none."""

import copy

import pytest
import torch
from helpers.tiny_models import Line
from transformers import Trainer, TrainingArguments

from hf_critmom import IKFAD, CritMomAdamW, CritMomQHM, CritMomSGD
from hf_critmom.optim import CritMomCompensated, CritMomMatched
from hf_critmom.optim.qhm import set_measured_curvature
from hf_critmom.optim.resuming import OtherOptimizerError, guard_resuming

OURS = {cls.__name__: cls for cls in (CritMomSGD, CritMomMatched, CritMomCompensated, CritMomQHM, CritMomAdamW, IKFAD)}
TORCHS = {"SGD": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9), "AdamW": torch.optim.AdamW}
ALL = {**OURS, **TORCHS}
LIKE_SGD = {"CritMomSGD", "CritMomMatched", "CritMomCompensated", "CritMomQHM", "SGD"}
LIKE_ADAMW = {"CritMomAdamW", "AdamW"}


def started(make, steps=3, **options):
    params = [torch.nn.Parameter(torch.ones(2, dtype=torch.float64))]
    optimizer = make(params, lr=0.02, **options)
    step(optimizer, steps)
    return optimizer


def step(optimizer, steps=1):
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = 0.5 * p.detach() + 1.0
        optimizer.step()


def said(caplog):
    return [record.getMessage() for record in caplog.records if "The checkpoint was trained" in record.getMessage()]


def exchangeable(before, after):
    return any({before, after} <= family for family in (LIKE_SGD, LIKE_ADAMW))


@pytest.mark.parametrize("after", OURS)
@pytest.mark.parametrize("before", ALL)
def test_a_state_of_another_optimizer_is_refused_or_continued_with_a_sentence_that_names_both(before, after, caplog):
    state = copy.deepcopy(started(ALL[before]).state_dict())
    optimizer = started(OURS[after], steps=0)
    if before == after:
        optimizer.load_state_dict(state)
        assert said(caplog) == []
    elif exchangeable(before, after):
        optimizer.load_state_dict(state)
        assert said(caplog) == [
            f"The checkpoint was trained with {before}, and {after} continues it with options of its own."
        ]
    else:
        with pytest.raises(OtherOptimizerError, match=f"the state of {before}, and this run trains with {after}"):
            optimizer.load_state_dict(state)
        assert not optimizer.state
        return
    step(optimizer)


@pytest.mark.parametrize("guarded", [False, True])
def test_other_options_than_those_of_the_state_are_one_warning(guarded, caplog):
    state = started(CritMomSGD, rule="exact", hold=0.8).state_dict()
    optimizer = started(CritMomSGD, steps=0, hold=0.9)
    if guarded:
        guard_resuming(optimizer)
    optimizer.load_state_dict(state)
    (sentence,) = said(caplog)
    assert "hold 0.8, not 0.9; rule exact, not linear" in sentence


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [("auto", 20.0, "curvature auto, not 20.0"), (20.0, "auto", "curvature 20.0, not auto"), ("auto", "auto", None)],
)
def test_a_curvature_that_is_given_on_one_side_and_measured_on_the_other_is_another_option(
    before, after, words, caplog
):
    first = started(CritMomQHM, steps=0, curvature=before)
    set_measured_curvature(first.param_groups, 3.0)
    started(CritMomQHM, steps=0, curvature=after).load_state_dict(first.state_dict())
    assert [words in sentence for sentence in said(caplog)] == ([True] if words else [])


@pytest.mark.parametrize("guarded", [False, True])
def test_a_run_of_torchs_adamw_goes_over_with_the_bias_that_its_constant_beta_left(guarded):
    """Whatever beta the options of the run that continues would have given to those steps."""
    plain = started(torch.optim.AdamW, steps=4)
    optimizer = started(CritMomAdamW, steps=0, rule="exponential")
    if guarded:
        guard_resuming(plain)
        guard_resuming(optimizer)
    optimizer.load_state_dict(plain.state_dict())
    (state,) = optimizer.state.values()
    assert state["num_steps"] == 4
    assert state["beta1_product"] == 0.9**4
    assert optimizer.param_groups[0]["rule"] == "exponential"


@pytest.mark.parametrize(("before", "after"), [("CritMomSGD", "SGD"), ("CritMomAdamW", "AdamW"), ("CritMomQHM", "SGD")])
def test_a_guarded_optimizer_of_torch_inherits_no_damped_momentum(before, after):
    optimizer = started(TORCHS[after], steps=0)
    guard_resuming(optimizer)
    optimizer.load_state_dict(started(OURS[before]).state_dict())
    (group,) = optimizer.param_groups
    assert group["momentum"] == 0.9 if after == "SGD" else group["betas"] == (0.9, 0.999)
    assert not {"rule", "hold", "floor", "curvature", "nu"} & group.keys()
    step(optimizer)


@pytest.mark.parametrize(
    ("before", "after"), [("ikfad", "critmom"), ("critmom", "critmom_adamw"), ("adamw_torch", "ikfad")]
)
def test_the_plain_trainer_gets_the_sentence_too(before, after, tmp_path):
    def trainer(optim, folder):
        args = TrainingArguments(
            str(tmp_path / folder), use_cpu=True, optim=optim, max_steps=2, save_steps=1, report_to="none"
        )
        return Trainer(Line(), args, train_dataset=[{"x": torch.ones(2), "labels": torch.ones(1)}] * 8)

    trainer(before, "before").train()
    with pytest.raises(OtherOptimizerError, match="this run trains with"):
        trainer(after, "after").train(resume_from_checkpoint=str(tmp_path / "before" / "checkpoint-1"))
