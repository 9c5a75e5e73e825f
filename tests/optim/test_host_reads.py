"""Claims about waiting: a step reads no value of a tensor, for which the host would have to wait for the device.

Tensors of the meta device hold no values, so that a step that reads one fails there. Where there is a GPU, torch's
debug mode for synchronization sees fused steps and copies, too.
"""

import pytest
import torch
from helpers.optimizer_runs import IMPLEMENTATIONS
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_critmom import CifarResNetConfig, CifarResNetForImageClassification, CritMomTrainer, GradientNormCallback
from hf_critmom.optim import OPTIMIZERS

NAMED = [
    pytest.param(spec.cls, options, id=f"{spec.name} {name}")
    for spec in OPTIMIZERS.values()
    for name, options in IMPLEMENTATIONS.items()
    if name == "for-loop" or name in spec.options
]
LOGGING_STEPS = 4


def params_with_gradients(device):
    params = [torch.nn.Parameter(torch.ones(shape, device=device)) for shape in ((3, 2), (4,), ())]
    for p in params:
        p.grad = torch.ones_like(p)
    return params


def step_along_a_schedule(optimizer, learning_rates=(0.02, 0.05, 0.01)):
    for lr in learning_rates:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()


@pytest.mark.parametrize("cls, options", [case for case in NAMED if "fused" not in case.values[1]])
def test_a_step_needs_no_values_on_the_host(cls, options):
    params = params_with_gradients("meta")
    optimizer = cls(params, lr=0.1, weight_decay=0.01, **options)
    step_along_a_schedule(optimizer)
    with pytest.raises(RuntimeError, match="meta"):  # what would have happened
        params[0].sum().item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cls, options", NAMED)
def test_a_step_does_not_wait_for_the_gpu(cls, options):
    optimizer = cls(params_with_gradients("cuda"), lr=0.1, weight_decay=0.01, **options)
    step_along_a_schedule(optimizer)  # creates the state
    torch.cuda.set_sync_debug_mode("error")
    try:
        step_along_a_schedule(optimizer)
    finally:
        torch.cuda.set_sync_debug_mode("default")


class HostReads(TorchDispatchMode):
    """Counts the values that are read from tensors."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class ReadsPerStep(TrainerCallback):
    def __init__(self, reads):
        self.reads, self.numbers = reads, []

    def on_step_begin(self, args, state, control, **kwargs):
        self.before = self.reads.number

    def on_step_end(self, args, state, control, **kwargs):
        self.numbers.append(self.reads.number - self.before)


def reads_of_training(trainer_class, folder, callbacks, **fields):
    """The number of values that are read in each step, without what is read to log it."""
    args = TrainingArguments(
        str(folder),
        max_steps=2 * LOGGING_STEPS,
        logging_steps=LOGGING_STEPS,
        logging_nan_inf_filter=False,
        per_device_train_batch_size=4,
        learning_rate=0.05,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **fields,
    )
    images = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    data = [{"pixel_values": image, "labels": i % 3} for i, image in enumerate(images)]
    with HostReads() as reads:
        steps = ReadsPerStep(reads)
        model = CifarResNetForImageClassification(CifarResNetConfig(width=2, image_size=8, num_labels=3))
        trainer_class(model, args, train_dataset=data, callbacks=[*callbacks, steps]).train()
    return steps.numbers


def test_steps_between_logs_read_no_more_than_those_of_a_plain_trainer(tmp_path):
    """Momentum, its ratio and the gradient norms of the layer groups wait for the log; clipping reads nothing, too."""
    plain = reads_of_training(Trainer, tmp_path / "plain", [], optim="sgd")
    ours = reads_of_training(CritMomTrainer, tmp_path / "ours", [GradientNormCallback()], optim="critmom")
    between = [step for step in range(2 * LOGGING_STEPS) if (step + 1) % LOGGING_STEPS]
    assert [ours[step] for step in between] == [plain[step] for step in between]
    assert plain[between[0]] == 0
