"""Claims about our callbacks under trainers that collect metrics of their own: those stay as they are."""

from collections import defaultdict, deque

import pytest
import torch
from helpers.tiny_models import tiny_data, tiny_model
from transformers import ByT5Tokenizer, Trainer, TrainingArguments

from hf_critmom import AttributionCallback, CritMomTrainer, CurvatureCallback, DampingCallback, GradientNormCallback
from hf_critmom.training.callbacks.observing import observing_copy

OURS = ("eval_attribution/", "gradient_norm/", "momentum", "damping_", "curvature/", "noise_scale")
FIELDS = {
    **{"use_cpu": True, "optim": "critmom", "learning_rate": 0.02, "max_steps": 4, "logging_steps": 1},
    **{"eval_strategy": "steps", "eval_steps": 2, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4},
    **{"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False},
    **{"include_num_input_tokens_seen": "all"},
}


class Meter:
    """A running mean, as scripts write them."""

    def __init__(self):
        self.total, self.number = torch.zeros(()), 0

    def update(self, value):
        self.total += value
        self.number += 1


class CollectingTrainer(Trainer):
    """Collects metrics in ``compute_loss`` and flushes them in ``log``, in all the ways that come to mind."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
        self.calls, self.recent, self.meter = 0, deque(maxlen=3), Meter()
        self.sums = [torch.zeros(())]
        self.count = self.count_call

    def count_call(self):
        self.calls += 1

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        mode = "train" if model.training else "eval"
        self._metrics[mode]["inner_loss"].append(loss.item())
        self.count()
        self.recent.append(loss.item())
        self.meter.update(loss.detach())
        self.sums[0] += loss.detach()
        self.state.num_input_tokens_seen += 1
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, start_time=None):
        for mode, metrics in self._metrics.items():
            logs.update({f"{mode}_{name}": sum(values) / len(values) for name, values in metrics.items()})
            metrics.clear()
        counts = {"calls": self.calls, "recent": sum(self.recent), "summed": self.sums[0].item()}
        logs.update(counts, mean=(self.meter.total / max(self.meter.number, 1)).item())
        super().log(logs, start_time)


class CollectingCritMomTrainer(CollectingTrainer, CritMomTrainer):
    pass


def records(trainer):
    """The trainer's own records, and ours, each without what a clock measured."""
    timed = ("_runtime", "_per_second", "total_flos")
    kept = [
        {name: value for name, value in record.items() if not name.endswith(timed)}
        for record in trainer.state.log_history
    ]
    ours = [record for record in kept if any(name.startswith(OURS) for name in record) and "loss" not in record]
    return [record for record in kept if record not in ours], ours


def trained(make, observed):
    trainer = make()
    if observed:
        for callback in (AttributionCallback, GradientNormCallback, DampingCallback, DampingCallback):
            trainer.add_callback(callback(trainer))
        trainer.add_callback(CurvatureCallback(trainer, every=2, examples=8))
    trainer.train()
    return trainer


@pytest.mark.parametrize("trainer_cls", [CollectingTrainer, CollectingCritMomTrainer])
def test_metrics_that_a_trainer_collects_are_the_same_with_our_callbacks(trainer_cls, tmp_path):
    def make():
        args = TrainingArguments(str(tmp_path), **FIELDS)
        data = tiny_data("Llama")
        return trainer_cls(tiny_model("Llama"), args, train_dataset=data, eval_dataset=data)

    alone, observed = trained(make, observed=False), trained(make, observed=True)
    theirs, ours = records(observed)
    assert theirs == records(alone)[0]
    assert any("eval_inner_loss" in record for record in theirs)
    for record in ours:
        assert all(name.startswith(OURS) or name in ("epoch", "step", "num_input_tokens_seen") for name in record)
    assert [record["step"] for record in ours if "eval_attribution/block0" in record] == [2, 4]
    assert [record["step"] for record in ours if "curvature/top" in record] == [0, 2, 4]
    assert len([record for record in theirs + ours if "momentum" in record]) == 4  # of two callbacks, one logs
    assert (observed.calls, observed.meter.number) == (alone.calls, alone.meter.number)


def test_trls_trainer_logs_the_same_with_our_callbacks(tmp_path):
    trl = pytest.importorskip("trl")
    import datasets

    rows = datasets.Dataset.from_list([{"input_ids": row["input_ids"].tolist()} for row in tiny_data("Llama")])

    def make():
        args = trl.SFTConfig(str(tmp_path), **FIELDS, bf16=False, max_length=8, gradient_checkpointing=False)
        model = tiny_model("Llama")
        return trl.SFTTrainer(
            model, args, train_dataset=rows, eval_dataset=rows, processing_class=ByT5Tokenizer(pad_token="<pad>")
        )

    alone, observed = trained(make, observed=False), trained(make, observed=True)
    theirs, ours = records(observed)
    assert theirs == records(alone)[0]
    assert any("eval_mean_token_accuracy" in record for record in theirs)
    for record in ours:
        assert not [name for name in record if "token_accuracy" in name or "entropy" in name]
    assert [record["step"] for record in ours if "eval_attribution/block0" in record] == [2, 4]


def test_a_copy_counts_for_itself(tmp_path):
    args = TrainingArguments(str(tmp_path), **FIELDS)
    data = tiny_data("Llama")
    trainer = CollectingTrainer(tiny_model("Llama"), args, train_dataset=data, eval_dataset=data)
    twin = observing_copy(trainer)
    assert twin.model is trainer.model and twin.accelerator is trainer.accelerator
    assert twin.train_dataset is trainer.train_dataset
    batch = {name: value[None] for name, value in tiny_data("Llama")[0].items()}
    twin.compute_loss(twin.model, batch)
    assert (twin.calls, trainer.calls) == (1, 0)
    assert not trainer._metrics["train"] and not trainer.recent and trainer.meter.number == 0
    assert trainer.sums[0] == 0.0 and trainer.state.num_input_tokens_seen == 0
