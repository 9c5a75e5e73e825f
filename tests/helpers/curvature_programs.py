"""Small problems whose curvature is known, and what two processes measure of one; run it under torchrun."""

import itertools
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from hf_critmom.curvature import CurvatureError, measure_curvature, noise_scale, sample_noise

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d)


class Quadratic(nn.Module):
    """``0.5 theta' A theta`` plus a linear term, spread over two parameters; A has the eigenvalues given."""

    def __init__(self, eigenvalues, seed=0, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = len(eigenvalues)
        basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
        self.register_buffer("matrix", (basis * torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T)
        self.matrix = self.matrix.to(dtype)
        self.first = nn.Parameter(torch.randn(size // 3, generator=generator, dtype=torch.float64).to(dtype))
        self.second = nn.Parameter(torch.randn(size - size // 3, generator=generator, dtype=torch.float64).to(dtype))

    def forward(self, shift):
        theta = torch.cat([self.first, self.second])
        return {"loss": 0.5 * theta @ self.matrix @ theta + shift.mean() * theta.sum()}


def perceptron(sizes=(10, 20, 20, 5), activation=nn.Tanh, seed=0):
    torch.manual_seed(seed)
    layers = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


def convolutional(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


def examples(inputs, rows=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=generator)
    return {"x": x, "labels": (x[:, :5] + 0.5 * torch.randn(rows, 5, generator=generator)).argmax(1)}


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["labels"])


def train(model, batch, steps, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model.train(), batch).backward()
        optimizer.step()
    optimizer.zero_grad()


def exact_hessian(model, batch, loss=cross_entropy, parameters=None):
    """The whole Hessian, column by column, with batch statistics and without dropout; leaves the model in that mode."""
    for module in model.modules():
        module.training = isinstance(module, BATCH_NORM)
    chosen = {id(p) for p in parameters or model.parameters()}
    named = {name: p for name, p in model.named_parameters() if id(p) in chosen}
    sizes = [p.numel() for p in named.values()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    class Substituted(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self):
            return loss(self.model, batch)

    def of(flat):
        parts = zip(named.items(), flat.split(sizes), strict=True)
        values = {name: part.view_as(p) for (name, p), part in parts} | buffers
        return functional_call(Substituted(), {f"model.{name}": value for name, value in values.items()})

    return torch.autograd.functional.hessian(of, torch.cat([p.detach().reshape(-1) for p in named.values()]))


def found_by_two_processes(accelerator):
    """What the processes measure together, each on half of the rows; DDP around the model, as in training."""
    model, batch = perceptron(), examples(10)
    train(model, batch, 5)
    half = {
        name: rows[32 * accelerator.process_index : 32 * accelerator.process_index + 32] for name, rows in batch.items()
    }
    wrapped = DistributedDataParallel(model)
    curvature = measure_curvature(wrapped, [half], cross_entropy, accelerator=accelerator, tolerance=1e-4)
    noise = noise_scale([sample_noise(wrapped, [half], cross_entropy, rows=8, accelerator=accelerator)])
    return {
        "top": curvature.top.value,
        "gradient": curvature.gradient,
        "gradient_norm": curvature.gradient_norm,
        "noise": [noise.value, noise.low, noise.high],
    }


def found_where_one_process_has_no_examples(accelerator):
    """The second process has nothing, and the loss only differences; neither may keep the first waiting."""
    model, batch = perceptron(), examples(10)
    own = [] if accelerator.process_index else [batch]
    options = {"accelerator": accelerator, "tolerance": 1e-4}
    exact = measure_curvature(model, own, cross_entropy, **options)
    once = measure_curvature(model, own, lambda *given: Halved.apply(cross_entropy(*given)), **options)
    noise = sample_noise(model, own, cross_entropy, rows=8, accelerator=accelerator)
    return {"top": exact.top.value, "method": once.method, "trace": noise.trace}


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss):
        return 0.5 * loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 0.5 * gradient


def refused_when_sharded(accelerator):
    model = perceptron()
    fully_shard(model)
    try:
        measure_curvature(model, [examples(10)], cross_entropy, accelerator=accelerator)
    except CurvatureError as error:
        return str(error)
    return "not refused"


def main(folder):
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    found = found_by_two_processes(accelerator) | {
        "uneven": found_where_one_process_has_no_examples(accelerator),
        "sharded": refused_when_sharded(accelerator),
    }
    torch.save(found, folder / f"found-{accelerator.process_index}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
