"""What `test_attribution_callback.py` starts under torchrun; every process runs all, the first writes the results.

torchrun --nproc_per_node 2 tests/attribution_programs.py FOLDER CHECKPOINT
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments, set_seed

from hf_critmom import AttributionCallback, GradientNormCallback, attribute_gradients
from hf_critmom.attribution import predict
from hf_critmom.commands import main

SELECTIONS = ("misclassified", "correct", "all", "top_loss")
OBSERVED = 37
"""Rows of the data set that is attributed: two processes cannot share them evenly, in batches of any size."""


class Perceptron(PreTrainedModel):
    """In double precision, so that summing in another order is rounding only."""

    config_class = PreTrainedConfig

    def __init__(self, config=None):
        super().__init__(config or PreTrainedConfig())
        set_seed(0)
        self.first, self.middle, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.double()

    def forward(self, inputs, labels):
        logits = self.last(self.middle(self.first(inputs).tanh()).tanh())
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def points(count, seed):
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [{"inputs": row, "labels": row[:3].abs().argmax()} for row in inputs]


def watched_run(folder, batch_size, accumulation=1):
    """A run of the Trainer with both callbacks: its records of them, its history file, and its parameters."""
    args = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        optim="sgd",
        learning_rate=0.5,
        max_grad_norm=0.05,
        max_steps=12,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        eval_strategy="steps",
        eval_steps=4,
        logging_steps=3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(Perceptron(), args, train_dataset=points(96, 0), eval_dataset=points(OBSERVED, 1))
    trainer.add_callback(AttributionCallback(trainer))
    trainer.add_callback(GradientNormCallback(trainer))
    trainer.train()
    return {
        "records": [
            {name: value for name, value in record.items() if "attribution/" in name or "gradient_norm/" in name}
            for record in trainer.state.log_history
        ],
        "parameters": [p.detach().clone() for p in trainer.model.parameters()],
    }


def attributed(model, loader, accelerator):
    """Attributions of every selection and of a mask, as JSON."""
    found = {
        name: attribute_gradients(model, loader, select=name, num_top_rows=9, accelerator=accelerator).to_dict()
        for name in SELECTIONS
    }
    predictions = predict(model, loader, accelerator=accelerator)
    mask = predictions.matched(0)
    found["mask"] = attribute_gradients(model, loader, select=mask, accelerator=accelerator).to_dict()
    found["predictions"] = [predictions.labels.tolist(), predictions.predicted.tolist()]
    return found


def loader_of(batch_size, accelerator):
    return accelerator.prepare_data_loader(DataLoader(points(OBSERVED, 1), batch_size))


def sharded():
    model = Perceptron()
    for layer in (model.first, model.middle):
        fully_shard(layer)
    return fully_shard(model)


def run(folder, checkpoint):
    torch.set_num_threads(1)
    results = {
        "watched": watched_run(folder / "watched", batch_size=4),
        "accumulated": watched_run(folder / "accumulated", batch_size=2, accumulation=2),
    }
    accelerator = Accelerator(cpu=True)
    results["processes"] = accelerator.num_processes
    results["data parallel"] = attributed(accelerator.prepare(Perceptron()), loader_of(5, accelerator), accelerator)
    model = sharded()
    before = [p.to_local().clone() for p in model.parameters()]
    results["sharded"] = attributed(model, loader_of(5, accelerator), accelerator)
    assert all(isinstance(p, DTensor) and p.grad is None for p in model.parameters())
    assert all(torch.equal(p.to_local(), q) for p, q in zip(model.parameters(), before, strict=True))
    os.chdir(folder)
    assert main(("attribute", str(checkpoint), "--output_dir", "attributed", "--use_cpu")) == 0
    if accelerator.is_main_process:
        torch.save(results, folder / "results.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
