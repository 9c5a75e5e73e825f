"""Claims about `CurvatureCallback` in the settings of real trainings: what it measures, and that it costs no run."""

import logging
import random

import datasets
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset, IterableDataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_critmom import CritMomTrainer, CurvatureCallback, DampingCallback
from hf_critmom.curvature import measure_along, measure_curvature, preserved
from hf_critmom.curvature.objective import Objective
from hf_critmom.errors import InputError
from hf_critmom.training.callbacks.curvature import _mean_loss, _used_by
from hf_critmom.training.callbacks.reading import left_alone

VOCABULARY, ROWS = 12, 16


class Texts(Dataset):
    """Texts of two to seven tokens; every second one has no label, as where a prompt fills the whole length."""

    def __init__(self, rows=ROWS):
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(2, 8, (rows,), generator=generator).tolist()
        self.ids = [torch.randint(1, VOCABULARY, (length,), generator=generator) for length in lengths]

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        ids = self.ids[index]
        return {"input_ids": ids, "labels": torch.full_like(ids, -100) if index % 2 else ids}


class Labelled(Texts):
    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def pad(rows):
    def stacked(name, filler):
        return nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True, padding_value=filler)

    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row["labels"]) for row in rows], batch_first=True)
    return {"input_ids": stacked("input_ids", 0), "labels": stacked("labels", -100), "attention_mask": mask}


def gpt2():
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "n_positions": 8, "n_embd": 4, "n_layer": 1, "n_head": 1}
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0, **dict.fromkeys(DROPOUTS, 0.0)))


DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


class Words(PreTrainedModel):
    """A loss of words one by one, by whatever is made of the head."""

    config_class = PreTrainedConfig

    def __init__(self, call=lambda head, hidden: head(hidden)):
        super().__init__(PreTrainedConfig())
        torch.manual_seed(0)
        self.words, self.head, self.call = nn.Embedding(VOCABULARY, 4), nn.Linear(4, VOCABULARY), call

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.call(self.head, self.words(input_ids).tanh())
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


@pytest.fixture
def train(tmp_path):
    def run(model, callback=None, *, data=None, cls=Trainer, start=True, collate=pad, callbacks=(), **fields):
        options = {name: fields.pop(name) for name in ("compute_loss_func",) if name in fields}
        defaults = {
            **{"output_dir": str(tmp_path), "use_cpu": True, "optim": "sgd", "learning_rate": 0.05, "max_steps": 4},
            **{"per_device_train_batch_size": 2, "logging_steps": 1, "save_strategy": "no", "report_to": "none"},
            **{"disable_tqdm": True, "lr_scheduler_type": "constant", "max_grad_norm": 0.0},
        }
        trainer = cls(
            model,
            TrainingArguments(**{**defaults, **fields}),
            train_dataset=Texts() if data is None else data,
            data_collator=collate,
            callbacks=list(callbacks),
            **options,
        )
        if callback is not None:
            callback.trainer = trainer
            trainer.add_callback(callback)
        if start:
            trainer.train()
        return trainer

    return run


def measured(trainer):
    return [record for record in trainer.state.log_history if "curvature/top" in record]


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


# --- The loss of the training ---------------------------------------------------------------------------------------


def summed_by_hand(outputs, labels, num_items_in_batch=None):
    logits = outputs["logits"][:, :-1].flatten(0, 1)
    return nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / num_items_in_batch


@pytest.mark.parametrize("loss", [{}, {"compute_loss_func": summed_by_hand}, {"label_smoothing_factor": 0.1}])
def test_the_measured_loss_is_the_one_whose_gradient_an_accumulated_step_takes(train, loss):
    fields = {"gradient_accumulation_steps": ROWS // 2, "max_steps": 1, **loss}
    callback = CurvatureCallback(every=1, examples=ROWS)
    trainer = train(gpt2(), callback, start=False, **fields)
    before = weights(trainer)
    examples = callback._read(trainer, trainer.args, trainer.get_train_dataloader())
    with preserved(trainer.model):
        gradient = Objective(trainer.model, examples.batches, _mean_loss(trainer)).gradient()
    trainer.train()
    step = (before - weights(trainer)) / 0.05
    torch.testing.assert_close(torch.cat([part.flatten() for part in gradient]), step, rtol=1e-3, atol=1e-5)
    assert [record["step"] for record in measured(trainer)] == [0, 1]


def test_where_each_batch_counts_the_same_in_an_accumulated_step_it_does_so_in_the_measurement(train):
    fields = {"gradient_accumulation_steps": ROWS, "per_device_train_batch_size": 1, "max_steps": 1}
    callback = CurvatureCallback(every=1, examples=ROWS, tolerance=0.01)
    trainer = train(Words(), callback, data=Labelled(), start=False, **fields)
    assert not trainer.model_accepts_loss_kwargs
    before = weights(trainer)
    batches = callback._read(trainer, trainer.args, trainer.get_train_dataloader()).batches
    found = measure_curvature(trainer.model, batches, tolerance=0.01, weighting="batches")
    trainer.train()
    assert torch.linalg.vector_norm(before - weights(trainer)).item() / 0.05 == pytest.approx(found.gradient_norm)
    assert measured(trainer)[0]["curvature/top"] == pytest.approx(found.top.value, rel=1e-5)


def test_a_compiled_model_is_measured_along_its_updates_too(train):
    class Open(Words):
        def forward(self, input_ids, attention_mask=None, labels=None, **kwargs):
            return super().forward(input_ids, attention_mask, labels)

    plain, compiled = (
        train(model, CurvatureCallback(every=2), data=Labelled(), remove_unused_columns=False)
        for model in (Open(), torch.compile(Open(), backend="eager"))
    )
    logged = [
        [[record.get(f"curvature/{name}") for name in ("top", "update")] for record in measured(one)]
        for one in (plain, compiled)
    ]
    assert logged[0] == logged[1] and len(logged[0]) == 3 and logged[1][-1][1] is not None
    direction = {name: torch.ones_like(p) for name, p in compiled.model.named_parameters()}
    assert measure_along(compiled.model, [pad([Labelled()[0]])], direction) is not None


def test_batches_of_one_row_give_curvature_and_noise(train):
    trainer = train(gpt2(), CurvatureCallback(), per_device_train_batch_size=1, gradient_accumulation_steps=16)
    assert len(measured(trainer)) == 3
    assert {record["noise_scale_rows"] for record in measured(trainer)} == {1.0}


def test_examples_too_few_for_the_noise_scale_still_give_the_curvature(train, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = train(
            Words(), CurvatureCallback(), **{"optim": "critmom_qhm", "optim_args": "curvature=auto"}, data=Texts(1)
        )
    assert len(measured(trainer)) == 3 and "noise_scale_rows" not in measured(trainer)[0]
    assert trainer.optimizer.param_groups[0]["curvature"] == measured(trainer)[-1]["curvature/top"]
    assert sum("no noise scale" in message for message in caplog.messages) == 1


class Collated(Texts):
    """Gives whole batches, as the image datasets of this package do."""

    def __getitems__(self, indices):
        return pad([self[index] for index in indices])


def test_a_dataset_may_collate_by_itself(train):
    first, second = (
        train(gpt2(), CurvatureCallback(every=4), data=data, collate=collate, remove_unused_columns=False)
        for data, collate in ((Texts(), pad), (Collated(), lambda batch: batch))
    )
    kept = ("curvature/top", "noise_scale_low", "noise_scale_rows")
    own, other = ([{name: record.get(name) for name in kept} for record in measured(one)] for one in (first, second))
    assert own == other and len(own) == 2


def test_what_is_unfrozen_after_the_step_has_not_moved_in_it(train):
    class Unfreeze(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            model.words.requires_grad_(False)

        def on_step_end(self, args, state, control, model=None, **kwargs):
            model.words.requires_grad_(True)

    trainer = train(Words(), CurvatureCallback(every=1), callbacks=[Unfreeze()], data=Texts(8), max_steps=2)
    assert [record["step"] for record in measured(trainer)] == [0, 1, 2]


def test_a_model_in_place_of_its_gradient_checkpoints_is_measured_the_same(train):
    tops = [
        [record["curvature/top"] for record in measured(train(gpt2(), CurvatureCallback(every=2), **fields))]
        for fields in ({}, {"activation_checkpointing": True})
    ]
    assert tops[0] == tops[1]


# --- Generators of datasets and collators ---------------------------------------------------------------------------


class Augmented(Texts):
    """With a generator of its own, within a transform."""

    def __init__(self):
        super().__init__()
        self.transforms = [self.replaced]
        self.generators = {"numpy": np.random.default_rng(0), "python": random.Random(0)}
        self.served = 0

    def replaced(self, ids):
        ids = ids.clone()
        ids[int(self.generators["numpy"].integers(2))] = self.generators["python"].randrange(1, VOCABULARY)
        return ids

    def __getitem__(self, index):
        self.served += 1
        ids = self.transforms[0](self.ids[index])
        return {"input_ids": ids, "labels": ids}


class Masking:
    """Makes its generator at the first use, as `DataCollatorForLanguageModeling(seed=...)` does."""

    generator = None

    def __init__(self):
        self.generator = None

    def __call__(self, rows):
        if self.generator is None:
            self.generator = torch.Generator().manual_seed(3)
        batch = pad(rows)
        kept = torch.rand(batch["labels"].shape, generator=self.generator) < 0.7
        return {**batch, "labels": batch["labels"].where(kept, -100)}


@pytest.mark.parametrize("with_its_own", ["dataset", "collator"])
def test_generators_of_dataset_and_collator_are_where_they_were(train, with_its_own):
    ends = []
    for callback in (None, CurvatureCallback(every=2)):
        data = Augmented() if with_its_own == "dataset" else Texts()
        collate = Masking() if with_its_own == "collator" else pad
        trainer = train(gpt2(), callback, data=data, collate=collate)
        ends.append((weights(trainer), getattr(data, "served", 0)))
    assert len(measured(trainer)) == 3
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def test_generators_in_functions_are_found_and_those_without_a_state_left_alone():
    inner, system = np.random.RandomState(0), random.SystemRandom()

    def draw():
        return inner.rand(), system.random()

    with left_alone(lambda: draw()):
        first = draw()[0]
    assert draw()[0] == first


MODULE_LEVEL = np.random.default_rng(0)


def test_a_generator_that_a_transform_of_datasets_names_is_where_it_was():
    def jittered(rows):
        return {"x": [x + MODULE_LEVEL.integers(1000) for x in rows["x"]]}

    data = datasets.Dataset.from_dict({"x": [0, 0, 0]}).with_transform(jittered)
    with left_alone(data):
        first = data[:]
    assert data[:] == first


class Jitter(nn.Module):
    """An augmentation as a module, with a generator of its own."""

    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng(0)

    def forward(self, ids):
        return ids.roll(int(self.generator.integers(2)))


def helped(rows):
    return [{name: one.roll(int(MODULE_LEVEL.integers(2))) for name, one in row.items()} for row in rows]


def pad_with_help(rows, generator=np.random.RandomState(0)):  # noqa: B008 -- one for all calls, as scripts have it
    return pad(helped(rows)[: len(rows) - int(generator.randint(2))])


class NoisyTrainer(Trainer):
    """Augments the batch with a generator of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.generators = [torch.Generator().manual_seed(0), np.random.default_rng(0)]

    def compute_loss(self, model, inputs, *args, **kwargs):
        shift = torch.randint(2, (), generator=self.generators[0]) + self.generators[1].integers(2)
        return super().compute_loss(
            model, {**inputs, "input_ids": inputs["input_ids"].roll(int(shift))}, *args, **kwargs
        )


class NoisyLoss:
    def __init__(self):
        self.generator = np.random.default_rng(0)

    def __call__(self, outputs, labels, num_items_in_batch=None):
        return self.generator.uniform(0.5, 1.5) * summed_by_hand(outputs, labels, num_items_in_batch)


class Served(Labelled):
    """Counts what it serves, augments by it, and keeps the part of the data that was read last, in several ways."""

    def __init__(self):
        super().__init__()
        self.served, self.number, self.part, self.rows = 0, None, None, []

    def __getitem__(self, index):
        number, row = divmod(index, 4)
        if number != self.number:
            self.part, self.number = self.ids[4 * number : 4 * number + 4], number
            self.rows.clear()
            self.rows.extend(self.part)
        assert self.part[row] is self.rows[row] is self.ids[index]
        self.served += 1
        ids = self.part[row].roll(self.served % 2)
        return {"input_ids": ids, "labels": ids}


OWNED = {
    "a module as transform": lambda: {"data": Transformed(Jitter())},
    "a generator of the module": lambda: {"data": Transformed(lambda ids: helped([{"": ids}])[0][""])},
    "a helper of the collator": lambda: {"collate": pad_with_help},
    "a trainer": lambda: {"cls": NoisyTrainer},
    "a loss function": lambda: {"compute_loss_func": NoisyLoss()},
    "what was read last": lambda: {"data": Served(), "train_sampling_strategy": "sequential"},
}


class Transformed(Labelled):
    def __init__(self, transform):
        super().__init__()
        self.transform = transform

    def __getitem__(self, index):
        ids = self.transform(self.ids[index])
        return {"input_ids": ids, "labels": ids}


@pytest.mark.parametrize("case", OWNED)
def test_what_dataset_collator_and_loss_own_is_as_if_nothing_had_been_measured(train, case, monkeypatch):
    ends = []
    for callback in (None, CurvatureCallback(every=2, examples=ROWS)):
        monkeypatch.setitem(globals(), "MODULE_LEVEL", np.random.default_rng(0))
        pad_with_help.__defaults__[0].seed(0)
        trainer = train(gpt2(), callback, per_device_train_batch_size=4, max_steps=6, **OWNED[case]())
        ends.append(weights(trainer))
    assert len(measured(trainer)) == 4
    assert torch.equal(*ends)


def test_a_file_that_was_closed_while_reading_is_not_put_back(train, tmp_path):
    class Files(Labelled):
        """Keeps one file open at a time."""

        def __init__(self):
            super().__init__()
            self.number = self.file = None
            for index, ids in enumerate(self.ids):
                (tmp_path / f"{index}.txt").write_text(" ".join(map(str, ids.tolist())))

        def __getitem__(self, index):
            if index != self.number:
                if self.file is not None:
                    self.file.close()
                self.file, self.number = (tmp_path / f"{index}.txt").open(), index
            self.file.seek(0)
            ids = torch.tensor(list(map(int, self.file.read().split())))
            return {"input_ids": ids, "labels": ids}

    ends = [weights(train(gpt2(), callback, data=Files())) for callback in (None, CurvatureCallback(every=2))]
    assert torch.equal(*ends)


# --- What cannot be measured costs no run ---------------------------------------------------------------------------


class Counted(IterableDataset):
    def __len__(self):
        return ROWS

    def __iter__(self):
        return iter([Texts()[index] for index in range(0, ROWS, 2)])


def no_evaluation(head, hidden):
    if not head.training:
        raise ValueError("this head has no mode of evaluation")
    return head(hidden)


UNMEASURED = {
    "without an index": (Words, Counted, "no length or no index"),
    "reentrant": (lambda: Words(lambda head, x: checkpoint(head, x, use_reentrant=True)), None, "use_reentrant=False"),
    "an error": (lambda: Words(no_evaluation), None, "no mode of evaluation"),
}


@pytest.mark.parametrize("case", UNMEASURED)
def test_what_cannot_be_measured_is_said_once_and_changes_nothing(train, caplog, case):
    model, data, reason = UNMEASURED[case]
    data = data or Labelled
    alone = train(model(), data=data())
    with caplog.at_level(logging.WARNING):
        trainer = train(model(), CurvatureCallback(every=1), data=data())
    assert not measured(trainer) and trainer.state.global_step == 4
    assert torch.equal(weights(trainer), weights(alone))
    assert all(module.training for module in trainer.model.modules())
    (said,) = [message for message in caplog.messages if "measures nothing" in message]
    assert reason in said


def test_an_error_of_the_noise_costs_the_noise_and_not_the_curvature(train, monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise RuntimeError("no kernel for so small a batch")

    monkeypatch.setattr("hf_critmom.training.callbacks.curvature.sample_noise", fails)
    with caplog.at_level(logging.WARNING):
        trainer = train(Words(), CurvatureCallback(every=1), data=Labelled())
    assert len(measured(trainer)) == 5 and "noise_scale_rows" not in measured(trainer)[0]
    (said,) = [message for message in caplog.messages if "no noise scale" in message]
    assert "no kernel for so small a batch" in said


@pytest.mark.parametrize("callback_cls", [CurvatureCallback, DampingCallback])
def test_a_momentum_of_one_has_no_damping_ratio_and_ends_no_run(train, callback_cls):
    class SetsMomentum(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            for group in optimizer.param_groups:
                group["momentum"] = 1.0

    callback = callback_cls() if callback_cls is DampingCallback else callback_cls(every=1)
    trainer = train(Words(), callback, data=Labelled(), callbacks=[SetsMomentum()], optim_args="momentum=0.9")
    assert trainer.state.global_step == 4
    assert not any(name.endswith(("ratio", "mean_step")) for record in trainer.state.log_history for name in record)
    assert any("momentum" in record or "curvature/top" in record for record in trainer.state.log_history)


def test_a_callback_of_another_trainer_is_refused_rather_than_logged_there(train):
    callback = CurvatureCallback(every=1)
    first, second = (train(Words(), cls=CritMomTrainer, callbacks=[callback], start=False) for _ in range(2))
    with pytest.raises(InputError, match="construct one CurvatureCallback for each trainer"):
        second.train()
    assert not first.state.log_history


@pytest.mark.parametrize("options", [{"every": 2.5}, {"every": "10"}, {"examples": float("nan")}])
def test_numbers_that_are_not_whole_are_a_sentence(options):
    with pytest.raises(InputError, match="expected a whole number"):
        CurvatureCallback(**options)


# --- The damping of the last step -----------------------------------------------------------------------------------


def test_only_sgd_has_a_damping_ratio_and_it_is_that_of_the_learning_rate_that_it_uses():
    params = [nn.Parameter(torch.ones(2))]
    assert _used_by(torch.optim.RMSprop(params, momentum=0.9)) is None
    lars = torch.optim.SGD([{"params": params, "trust_coeff": 0.001}], lr=0.5, momentum=0.9)  # as timm's says it
    assert _used_by(lars) is None
    dampened = torch.optim.SGD(params, lr=0.5, momentum=0.9, dampening=0.8)
    assert _used_by(dampened).lr == pytest.approx(0.1)
    dampened.param_groups[0]["effective_lr"] = 0.05
    assert _used_by(dampened).lr == pytest.approx(0.01)


def test_a_weight_that_is_given_needs_no_measured_curvature(train):
    trainer = train(
        Words(), cls=CritMomTrainer, data=Labelled(), optim="critmom_qhm", optim_args="curvature=auto,nu=0.5"
    )
    assert not measured(trainer)


def test_a_model_with_frozen_weights_and_adapters_is_measured_along_the_adapters(train):
    def adapted(head, hidden):
        return head(hidden) + hidden @ head.down @ head.up

    def make():
        model = Words(adapted)
        model.requires_grad_(False)
        model.head.down = nn.Parameter(0.1 * torch.ones(4, 2))
        model.head.up = nn.Parameter(0.1 * torch.randn(2, VOCABULARY))
        return model

    callback = CurvatureCallback(every=4, tolerance=0.01)
    trainer = train(make(), callback, data=Labelled())
    batches = callback._read(trainer, trainer.args, trainer.get_train_dataloader()).batches
    found = measure_curvature(trainer.model, batches, tolerance=0.01, weighting="batches")
    assert measured(trainer)[-1]["curvature/top"] == pytest.approx(found.top.value, rel=1e-3)
