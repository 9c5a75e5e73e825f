"""Claims about the places of rows where several processes share a dataset."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from hf_critmom.attribution.batches import batches, shuffled
from hf_critmom.attribution.gradients import GradientSums
from hf_critmom.attribution.passes import GradientPass
from hf_critmom.attribution.predictions import model_loss


def process_of(index, count=2):
    return SimpleNamespace(num_processes=count, process_index=index)


@pytest.mark.parametrize("even_batches", [True, False])
@pytest.mark.parametrize("rows", [3, 7, 8, 9, 16])
def test_every_row_is_said_to_be_where_it_is_in_the_dataset(rows, even_batches):
    data = [{"labels": torch.tensor(index)} for index in range(rows)]
    seen = []
    for index in (0, 1):
        loader = prepare_data_loader(
            DataLoader(data, 4), torch.device("cpu"), 2, index, even_batches=even_batches, put_on_device=False,
            rng_types=[],
        )  # fmt: skip
        for batch in batches(loader, torch.device("cpu"), process_of(index)):
            labels = batch.labels[: batch.valid].tolist()
            assert labels == list(range(batch.first, batch.first + batch.valid))
            seen += labels
    assert sorted(seen) == list(range(rows))


@pytest.mark.parametrize(("drop_last", "given"), [(False, range(1, 18)), (True, range(8, 18))])
@pytest.mark.parametrize("processes", [1, 2])
def test_shuffled_rows_are_those_that_the_loader_gives_in_order(processes, drop_last, given):
    for rows in given:
        data = [{"labels": torch.tensor(index)} for index in range(rows)]
        shuffled_rows, rows_in_order, places = [], [], []
        for index in range(processes):
            loader = prepare_data_loader(
                DataLoader(data, 4, drop_last=drop_last), torch.device("cpu"), processes, index, put_on_device=False,
                rng_types=[],
            )  # fmt: skip
            of_this = process_of(index, processes)
            with shuffled(loader, seed=0) as order:
                for batch in batches(loader, torch.device("cpu"), of_this):
                    labels = batch.labels[: batch.valid].tolist()
                    assert labels == order[batch.first : batch.first + batch.valid].tolist()
                    shuffled_rows += labels
                    places += range(batch.first, batch.first + batch.valid)
            for batch in batches(loader, torch.device("cpu"), of_this):
                rows_in_order += batch.labels[: batch.valid].tolist()
        assert sorted(shuffled_rows) == sorted(rows_in_order) == sorted(places)
        assert rows < 8 or shuffled_rows != rows_in_order


def test_texts_and_orders_of_a_loaders_own_stay_as_they_are():
    texts = DataLoader([{"labels": torch.tensor([row, row])} for row in range(8)], 2)
    drawn = DataLoader([{"labels": torch.tensor(row)} for row in range(8)], 2, shuffle=True)
    for loader in (texts, drawn):
        sampler = loader.batch_sampler.sampler
        with shuffled(loader, seed=0) as order:
            assert order is None and loader.batch_sampler.sampler is sampler


def test_a_process_without_a_batch_has_no_rows_of_largest_loss(monkeypatch):
    model = torch.nn.Linear(2, 2)
    monkeypatch.setattr(
        "hf_critmom.attribution.passes.gather_object", lambda mine: [1.0, 0.5] if not mine else [*mine, 2]
    )
    one_pass = GradientPass(model, GradientSums({"all": list(model.parameters())}), model_loss, process_of(1), "labels")
    assert list(one_pass._of_largest_loss([], 500)) == [None, None]
