"""Claims about gradient attribution: it is what autograd says, and it changes nothing."""

import copy
import json
import math
import random

import numpy as np
import pytest
import torch
from helpers.attributions import Branching, assert_is, assert_same, loader_of, naive_norms, vectors
from torch import nn
from torch.utils.data import DataLoader

from hf_critmom.attribution import (
    Attribution,
    AttributionError,
    attribute_gradients,
    layer_groups,
    mean_gradients,
    predict,
)
from hf_critmom.attribution.predictions import model_loss


@pytest.mark.parametrize("select", ["misclassified", "correct", "all", "top_loss"])
def test_the_gradient_is_that_of_the_mean_loss_of_the_chosen_examples(model, task, loader, select):
    model.eval()
    everything = task.validation.__getitems__(range(len(task.validation)))
    with torch.no_grad():
        logits = model(everything["pixel_values"]).logits
    wrong = logits.argmax(-1) != everything["labels"]
    losses = nn.functional.cross_entropy(logits, everything["labels"], reduction="none")
    chosen = {"misclassified": wrong, "correct": ~wrong, "all": torch.ones_like(wrong)}
    chosen["top_loss"] = losses >= losses.topk(20).values[-1]
    rows = {name: values[chosen[select]] for name, values in everything.items()}
    attribution = attribute_gradients(model, loader, select=select, num_top_rows=20)
    loss = model(**rows).loss
    assert attribution.loss == pytest.approx(loss.item(), rel=1e-5)
    assert (attribution.selected, attribution.total) == (int(chosen[select].sum()), len(wrong))
    assert attribution.misclassified == (None if select == "all" else int(wrong.sum()))
    assert 30 < int(wrong.sum()) < 130, "the fixture should have mistakes and right answers"
    assert_is(attribution, naive_norms(model, loss))
    weights = {
        name: math.sqrt(sum(float(p.detach().square().sum()) for p in members.values()))
        for name, members in layer_groups(model).of(model).items()
    }
    for name, group in attribution.groups.items():
        assert group.relative_norm == pytest.approx(group.norm / weights[name], rel=1e-5)


def test_the_rows_of_largest_loss_are_as_many_in_batches_of_any_size(model, task):
    found = [attribute_gradients(model, loader_of(task, size), select="top_loss") for size in (7, 160)]
    assert [one.selected for one in found] == [160, 160]
    assert_same(*found)


@pytest.mark.parametrize("select", ["misclassified", "top_loss"])
def test_batches_make_no_difference_to_the_mean_gradient(model, task, select):
    expected = attribute_gradients(model, loader_of(task, 500), select=select, num_top_rows=20)
    for size, batch_size in ((7, None), (32, 1), (160, 5), (33, 64)):
        found = attribute_gradients(model, loader_of(task, size), select=select, num_top_rows=20, batch_size=batch_size)
        assert_same(found, expected)


def test_the_mean_gradient_itself_is_that_of_autograd(model, task, loader):
    predictions = predict(model, loader)
    model.eval()
    rows = np.flatnonzero(predictions.wrong)
    expected = torch.autograd.grad(model(**task.validation.__getitems__(rows)).loss, list(model.parameters()))
    found = mean_gradients(model, loader)
    for (name, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
        assert found[name].shape == parameter.shape
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-6)
    attribution = attribute_gradients(model, loader, batch_size=8)
    assert attribution.batches == math.ceil(len(rows) / 8)
    whole = math.sqrt(sum(float(gradient.square().sum()) for gradient in found.values()))
    assert math.sqrt(sum(group.norm**2 for group in attribution.groups.values())) == pytest.approx(whole, rel=1e-4)


def test_a_model_in_half_precision_is_attributed_nearly_as_in_full(model, loader):
    full = attribute_gradients(model, loader, select="all")
    half = attribute_gradients(copy.deepcopy(model).to(torch.bfloat16), loader, select="all")
    assert half.selected == full.selected and half.loss == pytest.approx(full.loss, rel=0.02)
    for name, share in full.shares.items():
        assert half.shares[name] == pytest.approx(share, abs=0.03)
        assert half.groups[name].relative_norm == pytest.approx(full.groups[name].relative_norm, rel=0.15)
    predictions = predict(copy.deepcopy(model).to(torch.bfloat16), loader, probabilities=True)
    assert predictions.probabilities.dtype == np.float32
    assert predictions.probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)


def test_what_earlier_versions_stored_is_still_read(model, loader):
    attribution = attribute_gradients(model, loader)
    stored = attribution.to_dict()
    for group in stored["groups"].values():
        group.update(mean_batch_norm=1.0, rms=0.1)
    assert Attribution.from_dict(stored) == attribution


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"loss": "high"}, "loss is 'high' instead of a number"),
        ({"selected": 0}, "0 of"),
        ({"groups": {}}, "do not add up to 1"),
        ({"confidence": 2.0}, "confidence is 2.0"),
        ({"colour": "red"}, "colour is not known"),
    ],
)
def test_a_stored_attribution_that_was_tampered_with_is_refused(model, loader, tmp_path, change, expected):
    stored = {**attribute_gradients(model, loader).to_dict(), **change}
    (tmp_path / "a.json").write_text(json.dumps(stored))
    with pytest.raises(AttributionError, match=expected):
        Attribution.load(tmp_path / "a.json")


def test_shares_add_up_and_so_do_those_of_joined_groups(model, loader):
    seven = attribute_gradients(model, loader)
    assert sum(seven.shares.values()) == pytest.approx(1.0)
    two = attribute_gradients(model, loader, groups=["body=layer", "ends=."])
    body = sum(share for name, share in seven.shares.items() if name.startswith("layer"))
    assert two.shares["body"] == pytest.approx(body, rel=1e-5)
    assert two.ranked() == sorted(two.shares, key=lambda name: -two.shares[name])


def test_a_gradient_is_largest_relative_to_parameters_that_are_all_zero(model, loader):
    for parameter in model.resnet.fc.parameters():
        nn.init.zeros_(parameter)
    attribution = attribute_gradients(model, loader)
    assert attribution.groups["fc"].relative_norm is None and attribution.groups["fc"].norm > 0.0
    assert attribution.ranked("relative_norm")[0] == "fc"
    unused = attribute_gradients(Branching(), DataLoader(vectors(), 8))
    assert unused.ranked("relative_norm") == ["used", "unused"]


def test_a_mask_chooses_what_predictions_say(model, loader):
    predictions = predict(model, loader)
    given = attribute_gradients(model, loader, select=predictions.wrong)
    assert given.select == "given" and given.misclassified is None
    assert_same(given, attribute_gradients(model, loader))
    assert predictions.accuracy == pytest.approx(attribute_gradients(model, loader).accuracy)


def test_matched_examples_are_right_and_of_the_same_classes(model, loader):
    predictions = predict(model, loader)
    matched = predictions.matched(seed=3)
    assert not (matched & ~predictions.right).any()
    for label in np.unique(predictions.labels):
        of_class = predictions.labels == label
        wrong, right = int((of_class & predictions.wrong).sum()), int((of_class & predictions.right).sum())
        assert int((of_class & matched).sum()) == min(wrong, right)
    assert (predictions.matched(seed=3) == matched).all()
    assert (predictions.matched(seed=4) != matched).any()


def test_only_the_chosen_rows_are_passed_backward(model, task):
    passed = {True: 0, False: 0}

    def counting(some_model, inputs):
        passed[torch.is_grad_enabled()] += len(inputs["labels"])
        assert len(inputs["labels"]) <= 40
        return model_loss(some_model, inputs)

    attribution = attribute_gradients(model, loader_of(task, 40), compute_loss=counting)
    assert passed == {False: len(task.validation), True: attribution.selected}
    passed.update({True: 0, False: 0})
    attribute_gradients(model, loader_of(task, 40), select="all", compute_loss=counting)
    assert passed == {False: 0, True: len(task.validation)}


# --------------------------------------------------------------------------------------------------- it changes nothing


def test_nothing_is_changed_to_the_bit(model, task):
    model.train()
    model.resnet.layer2.eval()  # modes may be mixed
    model.resnet.bn1.weight.requires_grad_(False)
    for place, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, float(place)) if place % 2 else None
    before = copy.deepcopy(model.state_dict())
    grads = [parameter.grad for parameter in model.parameters()]
    values = [None if grad is None else grad.clone() for grad in grads]
    modes = [module.training for module in model.modules()]
    needed = [parameter.requires_grad for parameter in model.parameters()]
    generator = torch.Generator().manual_seed(7)
    shuffled = DataLoader(task.validation, 32, shuffle=True, collate_fn=task.collator, generator=generator)
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), generator.get_state())
    for select in ("misclassified", "correct", "all", "top_loss"):
        attribute_gradients(model, shuffled, select=select)
    predict(model, shuffled)
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2]) and torch.equal(generator.get_state(), states[3])
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == needed
    for parameter, grad, value in zip(model.parameters(), grads, values, strict=True):
        assert parameter.grad is grad
        assert grad is None or torch.equal(grad, value)


def test_a_failure_leaves_no_trace_either(model, task, loader):
    model.train()
    state = torch.get_rng_state()
    with pytest.raises(AttributionError):
        attribute_gradients(model, DataLoader(list(range(4)), 2))

    def broken(some_model, inputs):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        attribute_gradients(model, loader, compute_loss=broken)
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_it_works_where_gradients_are_switched_off_and_under_autocast(model, loader):
    expected = attribute_gradients(model, loader)
    with torch.no_grad():
        assert_same(attribute_gradients(model, loader), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = attribute_gradients(model, loader)
    assert found.shares["layer4"] == pytest.approx(expected.shares["layer4"], rel=0.2)


def test_frozen_parameters_are_said_to_be_frozen(model, loader):
    free = attribute_gradients(model, loader)
    for name, parameter in model.named_parameters():
        if "layer1" in name or "fc.bias" in name:
            parameter.requires_grad_(False)
    frozen = attribute_gradients(model, loader)
    layer1 = sum(p.numel() for name, p in model.named_parameters() if "layer1" in name)
    assert frozen.frozen == {"layer1": layer1, "fc": 10}
    assert "layer1" not in frozen.groups and sum(frozen.shares.values()) == pytest.approx(1.0)
    assert frozen.groups["fc"].parameters == free.groups["fc"].parameters - 10
    assert frozen.groups["conv1"].norm == pytest.approx(free.groups["conv1"].norm, rel=1e-5)


def test_a_layer_without_gradient_has_none():
    attribution = attribute_gradients(Branching(), DataLoader(vectors(), 8))
    assert attribution.shares == {"used": pytest.approx(1.0), "unused": 0.0}
    assert attribution.groups["unused"].norm == 0.0


def test_half_precision_is_summed_in_single(trained, task):
    model = copy.deepcopy(trained).to(torch.bfloat16)

    def halved(some_model, inputs):
        return model_loss(some_model, {**inputs, "pixel_values": inputs["pixel_values"].to(torch.bfloat16)})

    found = attribute_gradients(model, loader_of(task), select="all", batch_size=8, compute_loss=halved)
    expected = attribute_gradients(copy.deepcopy(trained), loader_of(task), select="all", batch_size=8)
    for name, share in expected.shares.items():
        assert found.shares[name] == pytest.approx(share, rel=0.3, abs=0.02)


# ----------------------------------------------------------------------------------------------------------------- JSON


def test_an_attribution_survives_json(model, loader, tmp_path):
    for parameter in model.resnet.fc.parameters():
        parameter.requires_grad_(False)
    attribution = attribute_gradients(model, loader)
    attribution.save(tmp_path / "attribution.json")
    assert Attribution.load(tmp_path / "attribution.json") == attribution
    assert Attribution.from_dict(json.loads(json.dumps(attribution.to_dict()))) == attribution


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"groups": 1}', b'{"groups": {}, "colour": 1}', b"\xff"])
def test_a_file_that_holds_no_attribution_is_named(tmp_path, content):
    (tmp_path / "other.json").write_bytes(content)
    with pytest.raises(AttributionError, match=r"other\.json"):
        Attribution.load(tmp_path / "other.json")
    with pytest.raises(AttributionError, match=r"missing\.json"):
        Attribution.load(tmp_path / "missing.json")
