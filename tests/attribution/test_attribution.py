"""Claims about gradient attribution: it is what autograd says, it changes nothing, and bad input is one sentence."""

import copy
import json
import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import (
    BertConfig,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedConfig,
    PreTrainedModel,
    set_seed,
)
from transformers.modeling_outputs import ImageClassifierOutput

from hf_critmom.attribution import (
    Attribution,
    AttributionError,
    attribute_gradients,
    layer_groups,
    mean_gradients,
    predict,
)
from hf_critmom.attribution import gradients as gradients_module
from hf_critmom.attribution.bootstrap import share_intervals
from hf_critmom.attribution.gradients import GradientSums
from hf_critmom.attribution.predictions import model_loss
from hf_critmom.tasks import DataArguments, ModelArguments, build_model, load_task

NUMBERS = ("norm", "share", "relative_norm")


@pytest.fixture(scope="module")
def task():
    return load_task(DataArguments(max_eval_samples=160))


@pytest.fixture(scope="module")
def trained(task):
    """A tiny ResNet that gets most digits right and many wrong."""
    model = build_model(task, ModelArguments(width=2), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        loader = DataLoader(task.train, 64, shuffle=True, collate_fn=task.collator, generator=generator)
        for batch in loader:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    model.zero_grad()
    return model


@pytest.fixture
def model(trained):
    return copy.deepcopy(trained)


@pytest.fixture
def loader(task):
    return loader_of(task)


def loader_of(task, batch_size=32, split="validation"):
    return DataLoader(task.split(split), batch_size, collate_fn=task.collator)


def assert_same(ours, theirs, rel=1e-4):
    assert ours.groups.keys() == theirs.groups.keys()
    for name, group in ours.groups.items():
        for number in NUMBERS:
            assert getattr(group, number) == pytest.approx(getattr(theirs.groups[name], number), rel=rel, abs=1e-9)
    assert (ours.selected, ours.total) == (theirs.selected, theirs.total)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)


# ------------------------------------------------------------------------------------------------- what autograd says


def naive_norms(model, loss):
    """The reference twin: one backward pass into .grad, and a norm for each group."""
    model.zero_grad()
    loss.backward()
    groups = layer_groups(model).of(model)
    norms = {
        name: math.sqrt(sum(float(p.grad.double().square().sum()) for p in members.values() if p.grad is not None))
        for name, members in groups.items()
    }
    model.zero_grad()
    return norms


def assert_is(attribution, norms, rel=1e-4):
    whole = sum(norm**2 for norm in norms.values())
    for name, norm in norms.items():
        group = attribution.groups[name]
        assert group.norm == pytest.approx(norm, rel=rel, abs=1e-7)
        assert group.share == pytest.approx(norm**2 / whole, rel=2 * rel, abs=1e-7)


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


# --------------------------------------------------------------------------------------------------------------- tokens

IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


@pytest.fixture(scope="module")
def language_model():
    set_seed(1)
    config = GPT2Config(vocab_size=12, n_positions=16, n_embd=8, n_layer=2, n_head=2, initializer_range=0.5, **IDS)
    return GPT2LMHeadModel(config)


def texts(lengths):
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(0, 12, (length,), generator=generator)} for length in lengths]


def padded(rows):
    """A collator that pads to the longest text of a batch."""
    length = max(len(row["input_ids"]) for row in rows)
    ids = torch.stack([nn.functional.pad(row["input_ids"], (0, length - len(row["input_ids"]))) for row in rows])
    kept = torch.arange(length) < torch.tensor([[len(row["input_ids"])] for row in rows])
    return {"input_ids": ids, "attention_mask": kept.long(), "labels": ids.masked_fill(~kept, -100)}


@pytest.mark.parametrize("select", ["misclassified", "correct", "all"])
@pytest.mark.parametrize("batch_size", [3, 20])
def test_the_items_of_a_language_model_are_its_tokens(language_model, select, batch_size):
    rows = texts([9, 5, 12, 12, 3, 7, 9, 16, 5, 1])
    language_model.eval()
    chosen_losses = []
    total = 0
    for row in rows:
        ids = row["input_ids"]
        logits = language_model(ids[None]).logits[0]
        wrong = logits[:-1].argmax(-1) != ids[1:]
        mask = {"misclassified": wrong, "correct": ~wrong, "all": torch.ones_like(wrong)}[select]
        chosen_losses.append(nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")[mask])
        total += len(wrong)
    losses = torch.cat(chosen_losses)
    loader = DataLoader(rows, batch_size, collate_fn=padded)
    attribution = attribute_gradients(language_model, loader, select=select)
    assert (attribution.unit, attribution.selected, attribution.total) == ("tokens", len(losses), total)
    assert attribution.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert_is(attribution, naive_norms(language_model, losses.mean()), rel=1e-3)


def test_a_mask_of_tokens_fits_texts_of_all_lengths(language_model):
    loader = DataLoader(texts([9, 5, 12, 12, 3, 7, 9, 16]), 3, collate_fn=padded)
    predictions = predict(language_model, loader)
    assert predictions.labels.shape == (8, 16)
    assert_same(
        attribute_gradients(language_model, loader, select=predictions.wrong),
        attribute_gradients(language_model, loader),
    )


def test_a_tagger_predicts_each_token_at_its_own_place():
    set_seed(0)
    config = BertConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3
    )
    model = BertForTokenClassification(config).eval()
    ids = torch.randint(0, 12, (6, 5), generator=torch.Generator().manual_seed(0))
    labels = (ids % 3).masked_fill(ids == 0, -100)
    logits = model(ids).logits
    wrong = (logits.argmax(-1) != labels) & (labels != -100)
    loss = nn.functional.cross_entropy(logits[wrong], labels[wrong])
    rows = [{"input_ids": one, "labels": other} for one, other in zip(ids, labels, strict=True)]
    attribution = attribute_gradients(model, DataLoader(rows, 4))
    assert (attribution.selected, attribution.total) == (int(wrong.sum()), int((labels != -100).sum()))
    assert_is(attribution, naive_norms(model, loss))


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


class Branching(nn.Module):
    """Has a layer that the loss does not depend on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, inputs, labels):
        logits = self.used(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def vectors(count=24):
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return [{"inputs": row, "labels": row[:3].argmax()} for row in inputs]


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


# ------------------------------------------------------------------------------------------------- memory and intervals


class Endless(Dataset):
    """Examples that exist only while they are asked for."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        row = torch.randn(4, generator=torch.Generator().manual_seed(index))
        return {"inputs": row, "labels": row[:3].argmax()}


def test_what_is_kept_does_not_grow_with_the_number_of_examples(monkeypatch):
    kept = []

    class Watched(GradientSums):
        def _add_unit(self, items, vector):
            super()._add_unit(items, vector)
            kept.append(len(self._units))

    monkeypatch.setattr("hf_critmom.attribution.attribution.GradientSums", Watched)
    attribution = attribute_gradients(Branching(), DataLoader(Endless(1500), 10), select="all", batch_size=3)
    assert attribution.batches == 500
    assert max(kept) == gradients_module.MOST_UNITS
    assert gradients_module.MOST_UNITS // 2 <= attribution.units <= gradients_module.MOST_UNITS


def test_units_keep_the_sum_of_what_was_added():
    layer = nn.Linear(3, 2)
    sums = GradientSums({"layer": list(layer.parameters())})
    generator = torch.Generator().manual_seed(0)
    for number in range(1, 124):
        parts = [torch.randn(p.shape, generator=generator) for p in layer.parameters()]
        sums.add(parts, torch.tensor(1.0), number)
    units = sums.units(None)
    assert sum(items for items, _ in units) == sums.items == sum(range(1, 124))
    whole = np.concatenate([total.flatten().numpy() for total in sums.sums])
    assert np.allclose(sum(vector for _, vector in units), whole, atol=1e-4)


@pytest.mark.parametrize("rank_one", [True, False])
def test_a_sketch_keeps_inner_products(rank_one):
    """Rows of a linear layer's gradient are multiples of each other for one example: the hard case for a fold."""
    layer = nn.Linear(300, 200, bias=False)
    sums = GradientSums({"layer": [layer.weight]})
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(6):
        if rank_one:
            part = torch.outer(torch.randn(200, generator=generator), torch.randn(300, generator=generator))
        else:
            part = torch.randn(200, 300, generator=generator) + 1.0
        found.append(part)
        sums.add([part], torch.tensor(1.0), 1)
    sketched = np.stack([vector for _, vector in sums.units(None)])
    assert sketched.shape == (6, gradients_module.SKETCH_SIZE)
    flat = torch.stack(found).flatten(1).double().numpy()
    exact, approximate = flat @ flat.T, sketched @ sketched.T
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    assert (np.abs(approximate - exact) < 6.0 * math.sqrt(2.0 / gradients_module.SKETCH_SIZE) * scale).all()


def test_sketched_groups_have_nearly_the_intervals_of_whole_ones(model, loader, monkeypatch):
    exact = attribute_gradients(model, loader, batch_size=6)
    assert max(group.parameters for group in exact.groups.values()) > 4096
    for size in (1024, 4096):
        monkeypatch.setattr(gradients_module, "SKETCH_SIZE", size)
        sketched = attribute_gradients(model, loader, batch_size=6)
        for name, group in sketched.groups.items():
            assert group.norm == pytest.approx(exact.groups[name].norm, rel=1e-6)  # itself it is exact
            assert group.log_odds_error == pytest.approx(exact.groups[name].log_odds_error, rel=0.35)


def test_intervals_are_seeded_and_lie_around_the_share(model, loader):
    first, second = (attribute_gradients(model, loader, seed=5, batch_size=6) for _ in range(2))
    assert first == second
    other = attribute_gradients(model, loader, seed=6, batch_size=6)
    assert other != first
    for name, group in first.groups.items():
        low, high = group.share_interval
        assert 0.0 <= low < high <= 1.0
        assert low == pytest.approx(other.groups[name].share_interval[0], abs=0.05)
    wide, narrow = (attribute_gradients(model, loader, confidence=level, batch_size=6) for level in (0.99, 0.8))
    for name in first.groups:
        low, high = narrow.groups[name].share_interval
        assert wide.groups[name].share_interval[0] < low < high < wide.groups[name].share_interval[1]


def test_too_few_examples_have_no_interval(model, loader):
    predictions = predict(model, loader)
    for count, known in ((4, False), (5, True)):
        mask = predictions.wrong & (np.cumsum(predictions.wrong) <= count)
        attribution = attribute_gradients(model, loader, select=mask)
        assert (attribution.selected, attribution.units) == (count, count)
        assert all((group.share_interval is not None) == known for group in attribution.groups.values())


def test_few_examples_are_spread_over_passes_as_far_as_that_is_cheap(model, task):
    whole = task.train.evaluated()
    for rows, passes in ((100, 1), (300, 2), (1000, 7)):
        examples = torch.utils.data.Subset(whole, range(rows))
        loader = DataLoader(examples, 500, collate_fn=task.collator)
        wrong = predict(model, loader).wrong & (np.arange(rows) >= rows - 20)
        count = int(wrong.sum())
        assert attribute_gradients(model, loader, select=wrong).batches == math.ceil(count / math.ceil(count / 16))
        few = attribute_gradients(model, loader, select="top_loss", num_top_rows=20)
        assert few.batches == math.ceil(20 / math.ceil(20 / passes))


def test_intervals_cover_the_share_of_the_population():
    """In simulation, where the population's share is known; 95 % intervals of few units cover somewhat less."""
    rng = np.random.default_rng(0)
    sizes, shifts, rounds, count = (10, 100, 400), (1.0, 1.0, 1.5), 120, 16
    parts = [slice(start, start + size) for start, size in zip((0, 10, 110), sizes, strict=True)]
    middle = np.concatenate([np.full(size, shift / math.sqrt(size)) for size, shift in zip(sizes, shifts, strict=True)])
    truth = np.array([np.sum(middle[part] ** 2) for part in parts])
    truth /= truth.sum()
    covered = np.zeros(3)
    for number in range(rounds):
        strength = 1.0 + 0.3 * rng.standard_normal((count, 1))
        units = 30.0 * (middle * strength + 0.15 * rng.standard_normal((count, middle.size)))
        mean = units.sum(axis=0) / (30.0 * count)
        shares = np.array([np.sum(mean[part] ** 2) for part in parts])
        intervals, _ = share_intervals(
            [(30, unit) for unit in units], parts, shares / shares.sum(), confidence=0.95, seed=number
        )
        covered += [low <= true <= high for (low, high), true in zip(intervals, truth, strict=True)]
    assert (covered / rounds > 0.85).all(), covered / rounds


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


# ------------------------------------------------------------------------------------------------------------ bad input


def refused(model, loader, **options):
    with pytest.raises(AttributionError) as raised:
        attribute_gradients(model, loader, **options)
    sentence = str(raised.value)
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 400
    return sentence


def test_no_misclassified_example(model, loader):
    predictions = predict(model, loader)
    right = [row for row, is_right in zip(loader.dataset, predictions.right, strict=True) if is_right]
    sentence = refused(model, DataLoader(right, 32))
    assert f"None of the {len(right)} examples is misclassified" in sentence
    wrong = [row for row, is_right in zip(loader.dataset, predictions.right, strict=True) if not is_right]
    assert "is classified correctly" in refused(model, DataLoader(wrong, 32), select="correct")
    assert "The mask chooses none" in refused(model, loader, select=np.zeros(160, dtype=bool))


def test_an_empty_data_set(model):
    assert "The dataset is empty" in refused(model, DataLoader([], 8))
    with pytest.raises(AttributionError, match="The dataset is empty"):
        predict(model, DataLoader([], 8))


class Lossless(PreTrainedModel):
    config_class = PreTrainedConfig

    def __init__(self):
        super().__init__(PreTrainedConfig())
        self.classifier = nn.Linear(64, 10)

    def forward(self, pixel_values, labels=None):
        return ImageClassifierOutput(logits=self.classifier(pixel_values.flatten(1)))


def test_a_model_without_loss(loader):
    assert "Lossless returned no loss" in refused(Lossless(), loader)


def test_a_loss_of_ones_own_takes_its_place(loader):
    def compute_loss(model, inputs):
        outputs = model(inputs["pixel_values"])
        return nn.functional.cross_entropy(outputs.logits, inputs["labels"]), outputs

    assert attribute_gradients(Lossless(), loader, compute_loss=compute_loss).total == 160


def test_a_loss_without_gradient(loader):
    def compute_loss(model, inputs):
        outputs = model(inputs["pixel_values"])
        return torch.tensor(1.0), outputs

    assert "does not depend on its trainable parameters" in refused(Lossless(), loader, compute_loss=compute_loss)


def test_unknown_groups_selections_and_sizes(model, loader):
    assert "'layre3'" in refused(model, loader, groups=["layre3"])
    assert "misclassified, correct, all, top_loss" in refused(model, loader, select="wrong")
    assert "batch_size must be at least 1, got 0" in refused(model, loader, batch_size=0)
    assert "num_top_rows must be at least 1" in refused(model, loader, select="top_loss", num_top_rows=-1)
    assert "confidence" in refused(model, loader, confidence=95.0)
    assert "does not fit the data set" in refused(model, loader, select=np.ones(3, dtype=bool))
    assert "does not fit the data set" in refused(model, loader, select=np.ones((160, 2), dtype=bool))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradients_that_are_not_finite(model, loader, value):
    with torch.no_grad():
        model.resnet.fc.bias[0] = value
    sentence = refused(model, loader, select="all")
    assert "not finite" in sentence and "conv1" in sentence and "fc" in sentence


def test_a_gradient_of_zero(loader):
    def compute_loss(model, inputs):
        outputs = model(inputs["pixel_values"])
        return outputs.logits.sum() * 0.0, outputs

    assert "zero everywhere" in refused(Lossless(), loader, compute_loss=compute_loss)


def test_everything_frozen(model, loader):
    model.requires_grad_(False)
    assert "are frozen" in refused(model, loader)


def test_a_model_without_parameters(loader):
    assert "Flatten has no parameters" in refused(nn.Flatten(), loader)


def test_batches_without_labels(model):
    rows = [{"pixel_values": torch.zeros(1, 8, 8)}] * 4
    assert "must be a mapping that holds labels, got one with pixel_values" in refused(model, DataLoader(rows, 2))
    assert "got list" in refused(model, DataLoader([[torch.zeros(3), torch.zeros(3)]] * 4, 2))


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs, labels):
        logits = self.layer(inputs)
        return {"loss": (logits[:, 0] - labels).square().mean(), "logits": logits}


def test_a_regression_is_never_misclassified_but_has_gradients():
    rows = [{"inputs": row["inputs"], "labels": row["inputs"].sum()} for row in vectors()]
    assert "cannot be right or wrong" in refused(Regression(), DataLoader(rows, 8))
    attribution = attribute_gradients(Regression(), DataLoader(rows, 8), select="all")
    assert (attribution.selected, attribution.unit) == (24, "examples")
