"""Claims about what happens once in a process: hooks of a step, and warnings. Each takes an interpreter of its own."""

import pytest

COUNT_HOOKS = """
import collections, sys
import torch

def constructed_plain_sgd():
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1).step()

if sys.argv[1] == "torch first":
    constructed_plain_sgd()
from hf_critmom import CritMomSGD
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

calls = collections.Counter()
register_optimizer_step_pre_hook(lambda *_: calls.update(["global pre"]))
register_optimizer_step_post_hook(lambda *_: calls.update(["global post"]))

def count_hooks():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = CritMomSGD([p], lr=0.01)
    optimizer.register_step_pre_hook(lambda *_: calls.update(["pre"]))
    optimizer.register_step_post_hook(lambda *_: calls.update(["post"]))
    p.grad = torch.ones(2)
    calls.clear()
    optimizer.step()
    assert calls == {"global pre": 1, "global post": 1, "pre": 1, "post": 1}, calls

count_hooks()
constructed_plain_sgd()
count_hooks()
"""


@pytest.mark.parametrize("order", ["torch first", "ours first"])
def test_hooks_run_once_per_step(order, run_bare):
    finished = run_bare("-c", COUNT_HOOKS, order)
    assert finished.returncode == 0, finished.stderr


CLAMPED_STEPS = """
import torch
from hf_critmom import CritMomSGD

p = torch.nn.Parameter(torch.ones(2))
optimizer = CritMomSGD([p], lr=0.2)
for step in range(20):
    optimizer.param_groups[0]["lr"] = 0.2 + 0.01 * step
    p.grad = torch.ones(2)
    optimizer.step()
"""


@pytest.mark.slow
def test_the_clamp_is_warned_of_once_in_a_run_not_at_every_learning_rate(run_bare):
    finished = run_bare("-c", CLAMPED_STEPS)
    assert finished.returncode == 0, finished.stderr
    warned = [line for line in finished.stderr.splitlines() if "clamped to 0" in line]
    assert len(warned) == 1, finished.stderr
    for word in ("0.25", "linear", "plain SGD", "rule=exponential"):
        assert word in warned[0]
