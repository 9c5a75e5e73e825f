"""Claims about `CurvatureCallback`: what it logs is what is there, and the training does not notice."""

import copy
import math
import time

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments, set_seed

from hf_critmom import CritMomTrainer, CurvatureCallback, critmom_optimizer, damping_ratio
from hf_critmom.curvature import CurvatureError, measure_curvature, noise_scale, sample_noise
from hf_critmom.damping import critical_nu
from hf_critmom.optim.options import DEFAULT_QHM_CURVATURE
from hf_critmom.training.callbacks import REGIME_CODES
from hf_critmom.training.callbacks.curvature import POINTS, give_curvature_callback
from hf_critmom.training.watching import watched_trainers

ROWS, STEPS = 64, 12


class Network(PreTrainedModel):
    """With everything that a measurement might disturb: batch statistics, dropout, a random augmentation inside."""

    config_class = PreTrainedConfig

    def __init__(self, config=None):
        super().__init__(config or PreTrainedConfig())
        set_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(6, 12),
            nn.BatchNorm1d(12),
            nn.Tanh(),
            nn.Dropout(0.2),
            nn.Linear(12, 12),
            nn.Tanh(),
            nn.Linear(12, 3),
        )
        self.post_init()

    def forward(self, inputs, labels=None):
        logits = self.layers(inputs + 0.01 * torch.randn_like(inputs) if self.training else inputs)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits} if loss is not None else {"logits": logits}


class Rows(torch.utils.data.Dataset):
    """Augmented by torch's own generator, as many datasets are."""

    def __init__(self, labelled=True, augmented=True):
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(ROWS, 6, generator=generator)
        self.labelled, self.augmented = labelled, augmented

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        inputs = self.inputs[index]
        row = {"inputs": inputs + 0.1 * torch.randn(6) if self.augmented else inputs}
        return {**row, "labels": inputs[:3].argmax()} if self.labelled else row


@pytest.fixture
def make_trainer(tmp_path):
    def make(callback=None, *, cls=Trainer, folder="run", data=None, model=None, callbacks=(), pair=None, **fields):
        args = TrainingArguments(
            **{
                "output_dir": str(tmp_path / folder),
                "use_cpu": True,
                "optim": "sgd",
                "optim_args": "momentum=0.9",
                "learning_rate": 0.05,
                "max_steps": STEPS,
                "per_device_train_batch_size": 8,
                "logging_steps": 1,
                "save_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
                **fields,
            }
        )
        trainer = cls(
            model or Network(),
            args,
            train_dataset=Rows() if data is None else data,
            callbacks=list(callbacks),
            optimizer_cls_and_kwargs=pair and pair(args),
        )
        if callback is not None:
            callback.trainer = callback.trainer or trainer
            trainer.add_callback(callback)
        return trainer

    return make


def measured(trainer):
    return [record for record in trainer.state.log_history if "curvature/top" in record]


def losses(trainer):
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


class Snapshots(TrainerCallback):
    """Copies the model at each step, before the other callbacks see it."""

    def __init__(self):
        self.models = {}

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self.models[0] = copy.deepcopy(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.models[state.global_step] = copy.deepcopy(model)


# --- What it logs ---------------------------------------------------------------------------------------------------


def test_it_logs_what_the_library_measures_at_the_steps_that_were_asked_for(make_trainer):
    snapshots, data = Snapshots(), Rows(augmented=False)
    callback = CurvatureCallback(every=4, examples=ROWS, tolerance=0.01)
    trainer = make_trainer(callback, callbacks=[snapshots], data=data)
    trainer.train()
    records = measured(trainer)
    assert [record["step"] for record in records] == [0, 4, 8, 12]
    samples = []
    for record in records:
        model = snapshots.models[record["step"]]
        batches = callback._read(trainer, trainer.args, trainer.get_train_dataloader()).batches
        assert [len(batch["labels"]) for batch in batches] == [8] * 8
        found = measure_curvature(model, batches, tolerance=0.01)
        assert record["curvature/top"] == pytest.approx(found.top.value, rel=1e-6)
        assert record["curvature/top_residual"] == pytest.approx(found.top.residual, rel=1e-3, abs=1e-6)
        assert record["curvature/gradient"] == pytest.approx(found.gradient, rel=1e-6)
        samples = [*samples, sample_noise(model, batches, rows=8)]
        noise = noise_scale(samples)
        if record["step"] == 0:  # stands alone
            samples = []
        assert record.get("noise_scale") == (noise.value and pytest.approx(noise.value, rel=1e-6))
        assert record.get("noise_scale_low", 0.0) == pytest.approx(noise.low, rel=1e-6)
    assert all(type(value) in (int, float) for record in records for value in record.values())


def test_the_curvature_along_the_update_is_that_of_the_last_step(make_trainer):
    snapshots, data = Snapshots(), Rows(augmented=False)
    callback = CurvatureCallback(every=4, examples=ROWS)
    trainer = make_trainer(callback, callbacks=[snapshots], data=data)
    trainer.train()
    first, *others = measured(trainer)
    assert "curvature/update" not in first
    batches = callback._read(trainer, trainer.args, trainer.get_train_dataloader()).batches
    for record in others:
        after, before = (snapshots.models[record["step"] - offset] for offset in (0, 1))
        parameters = dict(before.named_parameters())
        update = {name: p.detach() - parameters[name].detach() for name, p in after.named_parameters()}
        found = measure_curvature(after, batches, update=update)
        assert record["curvature/update"] == pytest.approx(found.update, rel=1e-4)


def test_the_damping_ratio_is_that_of_the_last_step_at_the_measured_curvature(make_trainer):
    trainer = make_trainer(CurvatureCallback(every=4), lr_scheduler_type="cosine", warmup_steps=2)
    trainer.train()
    rates = {record["step"]: record["learning_rate"] for record in trainer.state.log_history if "loss" in record}
    first, *others = measured(trainer)
    assert "curvature/top_damping_ratio" not in first, "the learning rate of the first step is 0"
    for record in others:
        for name in ("top", "gradient", "update"):
            curvature = record[f"curvature/{name}"]
            if curvature > 0.0:
                expected = damping_ratio(0.9, rates[record["step"]], curvature=curvature)
                assert record[f"curvature/{name}_damping_ratio"] == pytest.approx(expected, rel=1e-9)
                regime = "underdamped" if expected < 1.0 else "overdamped"
                assert record[f"curvature/{name}_damping_regime"] == REGIME_CODES[regime]
            else:
                assert f"curvature/{name}_damping_ratio" not in record


def test_nesterovs_momentum_is_quasi_hyperbolic_with_the_weight_of_its_momentum(make_trainer):
    trainer = make_trainer(CurvatureCallback(every=6), optim_args="momentum=0.9,nesterov=true")
    trainer.train()
    record = measured(trainer)[0]
    assert record["curvature/top_damping_ratio"] == pytest.approx(
        damping_ratio(0.9, 0.05, curvature=record["curvature/top"], nu=0.9)
    )


def test_an_infinite_ratio_is_left_out_of_the_log(make_trainer):
    fields = {"optim": "critmom", "optim_args": "nesterov=true", "learning_rate": 0.4}
    trainer = make_trainer(CurvatureCallback(every=6), cls=CritMomTrainer, **fields)
    trainer.train()
    assert any("curvature/top_damping_regime" in record for record in measured(trainer))
    assert all(math.isfinite(value) for record in trainer.state.log_history for value in record.values())


def test_adam_has_no_damping_ratio_at_the_curvature_of_the_loss(make_trainer, caplog):
    trainer = make_trainer(CurvatureCallback(every=6), optim="adamw_torch", optim_args=None)
    trainer.train()
    assert len(measured(trainer)) == 3
    assert not any("damping_ratio" in name for record in measured(trainer) for name in record)


def test_layer_groups_are_logged_by_their_names(make_trainer):
    groups = {"first": r"layers\.[01]\.", "rest": "."}
    trainer = make_trainer(CurvatureCallback(every=6, groups=groups))
    trainer.train()
    for record in measured(trainer):
        assert record["curvature/first/top"] <= 1.05 * record["curvature/top"]
        assert {"curvature/first/gradient", "curvature/rest/top"} <= record.keys()


def test_its_own_cost_is_logged(make_trainer):
    trainer = make_trainer(CurvatureCallback(every=6))
    trainer.train()
    (end,) = [record for record in trainer.state.log_history if "curvature/total_seconds" in record]
    assert end["curvature/total_seconds"] == pytest.approx(
        sum(record["curvature/seconds"] for record in measured(trainer)), abs=2e-3
    )
    assert 0.0 < end["curvature/time_share"] < 1.0


def test_examples_are_divided_by_the_batch_size_that_fits_in_memory(make_trainer):
    class Large(Network):
        def forward(self, inputs, labels=None):
            if len(inputs) > 5:
                raise RuntimeError("CUDA out of memory.")
            return super().forward(inputs, labels)

    trainer = make_trainer(CurvatureCallback(every=6, examples=16), model=Large(), auto_find_batch_size=True)
    trainer.train()
    assert trainer.state.train_batch_size <= 5
    assert [record["step"] for record in measured(trainer)] == [0, 6, 12]


def test_a_measurement_that_fails_is_part_of_the_cost(make_trainer):
    class Refusing(Network):
        def forward(self, inputs, labels=None):
            if not self.training:
                time.sleep(0.05)
                raise ValueError("only in training")
            return super().forward(inputs, labels)

    trainer = make_trainer(CurvatureCallback(every=6), model=Refusing())
    trainer.train()
    assert not measured(trainer)
    (end,) = [record for record in trainer.state.log_history if "curvature/total_seconds" in record]
    assert end["curvature/total_seconds"] > 3 * 0.05


def test_by_default_it_measures_at_a_few_points_on_one_batch(make_trainer):
    callback = CurvatureCallback()
    trainer = make_trainer(callback, max_steps=100, logging_steps=100)
    trainer.train()
    assert [record["step"] for record in measured(trainer)] == [0, 2, 10, 35, 65] == [100 * point for point in POINTS]
    batches = callback._read(trainer, trainer.args, trainer.get_train_dataloader()).batches
    assert [len(batch["labels"]) for batch in batches] == [8]


# --- Without a trace ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}, {"optim": "critmom", "optim_args": None}],
    ids=lambda fields: "+".join(fields) or "plain",
)
@pytest.mark.parametrize(("method", "every"), [("auto", 3), ("central_differences", 6)])
def test_training_with_it_is_bit_identical_to_training_without(make_trainer, fields, method, every):
    alone = make_trainer(**fields)
    alone.train()
    state = torch.get_rng_state()
    observed = make_trainer(CurvatureCallback(every=every, examples=24, groups=True, method=method), **fields)
    observed.train()
    assert len(measured(observed)) == 1 + STEPS // every
    assert torch.equal(torch.get_rng_state(), state)
    assert losses(observed) == losses(alone)
    ours, theirs = observed.model.state_dict(), alone.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    states = [trainer.optimizer.state_dict()["state"] for trainer in (observed, alone)]
    for one, other in zip(states[0].values(), states[1].values(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


# --- curvature=auto -------------------------------------------------------------------------------------------------

AUTO = {"optim": "critmom_qhm", "optim_args": "curvature=auto", "max_steps": 20, "lr_scheduler_type": "cosine"}


@pytest.mark.parametrize("cls", [Trainer, CritMomTrainer])
def test_an_optimizer_that_asks_for_the_curvature_is_handed_it_before_its_first_step(make_trainer, cls, recwarn):
    used = []

    class Used(TrainerCallback):
        def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            used.append([(group["curvature"], group["nu"], group["lr"]) for group in optimizer.param_groups])

    callback = CurvatureCallback() if cls is Trainer else None  # CritMomTrainer has one
    trainer = make_trainer(callback, cls=cls, callbacks=[Used()], **AUTO)
    trainer.train()
    records = measured(trainer)
    assert [record["step"] for record in records] == sorted({round(20 * point) for point in POINTS})
    for step, groups in enumerate(used):
        newest = [record["curvature/top"] for record in records if record["step"] <= step][-1]
        for curvature, nu, lr in groups:
            assert curvature == newest
            assert nu == critical_nu(0.9, lr, curvature=newest)
    assert {group["curvature_source"] for group in trainer.optimizer.param_groups} == {"measured"}
    assert not [warning for warning in recwarn if "is assumed" in str(warning.message)]


def test_a_run_with_measured_curvature_is_resumed_to_the_bit(make_trainer, tmp_path):
    fields = {**AUTO, "save_strategy": "steps", "save_steps": 5, "data": Rows(augmented=False)}
    straight = make_trainer(cls=CritMomTrainer, folder="straight", **fields)
    straight.train()
    resumed = make_trainer(cls=CritMomTrainer, folder="resumed", **fields)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-5"))
    ours, theirs = resumed.model.state_dict(), straight.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert losses(resumed) == losses(straight)
    assert resumed.optimizer.state_dict()["param_groups"] == straight.optimizer.state_dict()["param_groups"]
    durations = ("curvature/seconds", "curvature/time_share")
    ours, theirs = (
        [{name: value for name, value in one.items() if name not in durations} for one in measured(trainer)]
        for trainer in (resumed, straight)
    )
    assert ours == theirs and "noise_scale_rows" in ours[-1]


def test_any_trainer_of_a_program_that_is_watched_hands_it_over(make_trainer):
    with watched_trainers():
        trainer = make_trainer(**AUTO)
    trainer.train()
    assert trainer.optimizer.param_groups[0]["curvature_source"] == "measured"


def test_without_the_wish_nothing_is_measured(make_trainer):
    trainer = make_trainer(cls=CritMomTrainer, optim="critmom_qhm", optim_args="curvature=5")
    trainer.train()
    assert not measured(trainer)
    assert trainer.optimizer.param_groups[0]["curvature"] == 5.0


def test_a_callback_of_ones_own_takes_the_place_of_the_one_that_is_there(make_trainer, caplog):
    own = CurvatureCallback(every=10)
    trainer = make_trainer(own, cls=CritMomTrainer, **AUTO)
    assert "there is already one" not in caplog.text
    assert [one for one in trainer.callback_handler.callbacks if isinstance(one, CurvatureCallback)] == [own]
    give_curvature_callback(trainer)
    trainer.train()
    assert [record["step"] for record in measured(trainer)] == [0, 10, 20]


def test_where_it_cannot_be_measured_the_assumed_curvature_stays_and_that_is_said(make_trainer):
    class Endless(IterableDataset):
        def __iter__(self):
            rows = Rows()
            while True:
                yield rows[0]

    trainer = make_trainer(CurvatureCallback(), data=Endless(), **AUTO)
    with pytest.warns(UserWarning, match="10 is assumed"):
        trainer.train()
    assert trainer.optimizer.param_groups[0]["curvature"] == DEFAULT_QHM_CURVATURE
    assert not measured(trainer)


# --- Where nothing can be measured ----------------------------------------------------------------------------------


class Linear(PreTrainedModel):
    """A loss that is concave in its parameters."""

    config_class = PreTrainedConfig

    def __init__(self):
        super().__init__(PreTrainedConfig())
        self.layer = nn.Linear(6, 1)

    def forward(self, inputs, labels=None):
        return {"loss": -self.layer(inputs).square().mean()}


def test_a_curvature_that_is_not_positive_is_logged_without_a_ratio_and_changes_no_optimizer(make_trainer):
    trainer = make_trainer(
        CurvatureCallback(every=5), model=Linear(), **{**AUTO, "max_steps": 5, "learning_rate": 1e-3}
    )
    trainer.train()
    for record in measured(trainer):
        assert record["curvature/top"] <= 0.0
        assert not any("damping" in name for name in record)
    assert trainer.optimizer.param_groups[0]["curvature"] == DEFAULT_QHM_CURVATURE


def test_a_loss_that_is_not_finite_costs_the_measurement_and_not_the_run(make_trainer):
    class Overflow(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 6:
                with torch.no_grad():
                    model.layers[0].weight[0, 0] = math.nan

    trainer = make_trainer(CurvatureCallback(every=6), callbacks=[Overflow()])
    trainer.train()
    assert [record["step"] for record in measured(trainer)] == [0]
    assert trainer.state.global_step == STEPS


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"every": 0}, "every=0"),
        ({"examples": -1}, "examples=-1"),
        ({"tolerance": 2.0}, "tolerance=2.0"),
        ({"method": "exact"}, "double_backward"),
        ({"batch_norm": "off"}, "eval"),
    ],
)
def test_bad_arguments_are_one_sentence(options, word):
    with pytest.raises(CurvatureError, match=word):
        CurvatureCallback(**options)


def test_the_factory_serves_a_trainer_without_registered_names(make_trainer):
    def pair(args):
        return critmom_optimizer(args, name="critmom_qhm", curvature="auto")

    trainer = make_trainer(CurvatureCallback(), pair=pair, optim_args=None)
    trainer.train()
    assert trainer.optimizer.param_groups[0]["curvature"] == measured(trainer)[-1]["curvature/top"]
