"""What `test_distributed.py` starts under torchrun; every process runs all of it, the first one writes the results.

torchrun --nproc_per_node 2 tests/distributed_programs.py FOLDER
"""

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments, set_seed

from hf_critmom import IKFAD, CritMomAdamW, CritMomQHM, CritMomSGD
from hf_critmom.optim import CritMomCompensated, CritMomMatched

# --- Trainer --------------------------------------------------------------------------------------------------------

TRAINER_NAMES = ("critmom", "critmom_hybrid", "critmom_adamw", "critmom_matched", "critmom_compensated", "ikfad")


class Perceptron(PreTrainedModel):
    """In double precision, so that summing in another order is rounding only, also where Adam divides by it."""

    config_class = PreTrainedConfig

    def __init__(self, config=None):
        super().__init__(config or PreTrainedConfig())
        set_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()

    def forward(self, inputs, labels):
        logits = self.layers(inputs)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def points():
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [{"inputs": row, "labels": row.argmax() % 3} for row in inputs]


def trainer_run(name, folder, batch_size):
    """Parameters after a run of the Trainer, on as many processes as there are."""
    model = Perceptron()
    args = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        optim=name,
        learning_rate=0.2,
        weight_decay=0.01,
        lr_scheduler_type="cosine",
        warmup_steps=3,
        max_steps=12,
        per_device_train_batch_size=batch_size,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    Trainer(model, args, train_dataset=points()).train()
    return [p.detach().clone() for p in model.parameters()]


# --- FSDP2 and torch.distributed.checkpoint -------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda params: CritMomSGD(params, lr=0.1, weight_decay=0.01),
    "sgd-foreach": lambda params: CritMomSGD(params, lr=0.1, hold=0.9, nesterov=True, foreach=True),
    "adamw": lambda params: CritMomAdamW(params, lr=0.1),
    "adamw-for-loop": lambda params: CritMomAdamW(params, lr=0.1, foreach=False, rule="ema"),
    "adamw-fused": lambda params: CritMomAdamW(params, lr=0.1, fused=True),
    "qhm": lambda params: CritMomQHM(params, lr=0.1, weight_decay=0.01),
    "qhm-for-loop": lambda params: CritMomQHM(params, lr=0.1, momentum=0.5, foreach=False),
    "matched": lambda params: CritMomMatched(params, lr=0.1, weight_decay=0.01),
    "compensated-foreach": lambda params: CritMomCompensated(params, lr=0.1, nesterov=True, foreach=True),
    "ikfad": lambda params: IKFAD(params, lr=0.1),
    "ikfad-for-loop": lambda params: IKFAD(params, lr=0.1, foreach=False),
}
FORMS = {
    "a layer joins late": {"flat": False, "late_from": 2},
    "flattened": {"flat": True, "late_from": 2},
}
SCHEDULE = (0.0, 0.01, 0.1, 0.2, 0.05, 0.0, 0.1, 0.02)
CUT = 4
"""The step before which the state makes its round trip."""


class Branching(torch.nn.Module):
    """Has a layer that may go unused; its sizes are such that two processes cannot share them evenly."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.late, self.last = torch.nn.Linear(5, 7), torch.nn.Linear(7, 7), torch.nn.Linear(7, 3)
        self.double()

    def forward(self, inputs, with_late):
        hidden = self.first(inputs).tanh()
        return self.last(self.late(hidden).tanh() if with_late else hidden)


def sharded():
    model = Branching()
    for layer in (model.first, model.late, model.last):
        fully_shard(layer)
    return fully_shard(model)


def train(model, optimizer, steps, late_from, shard=slice(None)):
    """Steps of the mean loss over the rows of `shard`, which FSDP2 averages over processes.

    One layer has no gradients before the step `late_from`, so that AdamW counts its steps apart.
    """
    for step in steps:
        rows = torch.randn(8, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        for group in optimizer.param_groups:
            group["lr"] = SCHEDULE[step]
        optimizer.zero_grad()
        model(rows[shard], step >= late_from).square().mean().backward()
        optimizer.step()


def full(tensor):
    tensor = tensor.detach()
    return tensor.full_tensor().clone() if isinstance(tensor, DTensor) else tensor.clone()


def parameters(model):
    return [full(p) for p in model.parameters()]


def frictions(model, optimizer):
    """Mean friction of each layer, and of all of them."""
    layers = [model.first, model.late, model.last, model]
    return [optimizer.friction(layer.parameters()) for layer in layers] if isinstance(optimizer, IKFAD) else None


def fsdp_run(make, rank, flat, late_from):
    """One optimizer: unsharded, sharded, and sharded with a round trip of its state in the middle."""
    shard = slice(4 * rank, 4 * rank + 4)
    before, after = range(CUT), range(CUT, len(SCHEDULE))
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    found = {}

    model = Branching()
    optimizer = make(model.parameters())
    train(model, optimizer, [*before, *after], late_from)
    found["unsharded"], found["friction unsharded"] = parameters(model), frictions(model, optimizer)

    model = sharded()
    optimizer = make(model.parameters())
    train(model, optimizer, before, late_from, shard)
    halfway = copy.deepcopy([p.detach() for p in model.parameters()])
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    train(model, optimizer, after, late_from, shard)
    found["sharded"], found["friction sharded"] = parameters(model), frictions(model, optimizer)

    model = sharded()
    with torch.no_grad():
        for p, value in zip(model.parameters(), halfway, strict=True):
            p.copy_(value)
    optimizer = make(model.parameters())
    found["before loading"] = parameters(model)
    set_optimizer_state_dict(model, optimizer, state, options=options)
    found["after loading"] = parameters(model)
    train(model, optimizer, after, late_from, shard)
    found["after the round trip"], found["friction after it"] = parameters(model), frictions(model, optimizer)
    return found


def main(folder):
    torch.set_num_threads(1)
    runs = {name: trainer_run(name, folder / "run", batch_size=4) for name in TRAINER_NAMES}  # starts the processes
    rank = dist.get_rank()
    results = {"trainer": runs, "processes": dist.get_world_size(), "backend": dist.get_backend()}
    for form, options in FORMS.items():
        results[form] = {name: fsdp_run(make, rank, **options) for name, make in OPTIMIZERS.items()}
    if rank == 0:
        torch.save(results, folder / "results.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
