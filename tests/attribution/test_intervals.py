"""Claims about the intervals of attributions, and about the memory that they take."""

import math

import numpy as np
import pytest
import torch
from helpers.attributions import Branching
from torch import nn
from torch.utils.data import DataLoader, Dataset

from hf_critmom.attribution import (
    attribute_gradients,
    predict,
)
from hf_critmom.attribution import gradients as gradients_module
from hf_critmom.attribution.bootstrap import share_intervals
from hf_critmom.attribution.gradients import GradientSums

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


# --------------------------------------------------------------------------------------------------- order of the rows


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, inputs, labels):
        logits = self.head(torch.tanh(self.hidden(inputs)))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize("select", ["all", "misclassified", "mask"])
def test_a_dataset_that_is_sorted_by_class_gives_what_a_shuffled_one_gives(select):
    """Units of consecutive rows would be of one class each: the interval of a share need not even hold the share."""
    model = TwoLayers()
    examples = [Endless(600)[index] for index in range(600)]
    found = {}
    for order in ("sorted", "shuffled"):
        if order == "sorted":
            examples.sort(key=lambda one: int(one["labels"]))
        else:
            examples = [examples[index] for index in np.random.default_rng(1).permutation(600)]
        loader = DataLoader(examples, 60)
        chosen = predict(model, loader).wrong if select == "mask" else select
        found[order] = attribute_gradients(model, loader, select=chosen, batch_size=20)
    assert found["sorted"].selected == found["shuffled"].selected
    for name, group in found["sorted"].groups.items():
        other = found["shuffled"].groups[name]
        assert group.share == pytest.approx(other.share, rel=1e-4)
        low, high = group.share_interval
        assert low <= group.share <= high
        assert high - low == pytest.approx(np.diff(other.share_interval)[0], rel=0.6)
        assert group.signal_share == pytest.approx(other.signal_share, rel=0.05, abs=0.005)


def test_rows_of_largest_loss_are_not_divided_by_their_losses():
    model = TwoLayers()
    taken = []

    def loss_of_rows(model, inputs):
        outputs = model(**inputs)
        if torch.is_grad_enabled():
            taken.append(outputs["loss"].item())
        return outputs["loss"], outputs

    loader = DataLoader(Endless(400), 40)
    attribute_gradients(model, loader, select="top_loss", num_top_rows=200, batch_size=10, compute_loss=loss_of_rows)
    assert len(taken) == 20
    assert abs(np.corrcoef(taken, range(20))[0, 1]) < 0.5
