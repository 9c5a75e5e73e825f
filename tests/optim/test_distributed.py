"""Claims about several processes: data parallelism, FSDP2 and `torch.distributed.checkpoint` make the same steps.

The processes are those of `distributed_programs.py`, started once for all claims; what they should agree with is
computed here, or by them, without sharding.
"""

import copy
import os
import subprocess
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from helpers import distributed_programs as programs
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
any_optimizer = pytest.mark.parametrize("name", programs.OPTIMIZERS)
any_form = pytest.mark.parametrize("form", programs.FORMS)
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, warm_python):
    """The results of two processes under torchrun that talk by gloo."""
    folder = tmp_path_factory.mktemp("two_processes")
    finished = subprocess.run(
        [*warm_python.split(), *TORCHRUN, "--no-python", *warm_python.split(), programs.__file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    results = torch.load(folder / "results.pt", weights_only=True)
    assert (results["processes"], results["backend"]) == (2, "gloo")
    return results


def assert_close(ours, theirs, tolerance=1e-6):
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0.0, atol=tolerance)


def differ(ours, theirs):
    return any(not torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", programs.TRAINER_NAMES)
def test_two_processes_train_like_one_with_twice_the_batch(two_processes, tmp_path, name):
    alone = programs.trainer_run(name, tmp_path, batch_size=8)
    assert differ(alone, [p.detach() for p in programs.Perceptron().parameters()])
    assert_close(two_processes["trainer"][name], alone)


@any_optimizer
@any_form
def test_sharded_parameters_make_the_steps_of_whole_ones(two_processes, form, name):
    found = two_processes[form][name]
    assert differ(found["unsharded"], programs.parameters(programs.Branching()))
    assert_close(found["sharded"], found["unsharded"])


@pytest.mark.parametrize("name", [name for name in programs.OPTIMIZERS if name.startswith("ikfad")])
@any_form
def test_friction_of_sharded_parameters_is_that_of_whole_ones(two_processes, form, name):
    found = two_processes[form][name]
    assert min(found["friction unsharded"]) > 0.0
    assert found["friction sharded"] == pytest.approx(found["friction unsharded"], rel=1e-9)
    assert found["friction after it"] == pytest.approx(found["friction unsharded"], rel=1e-9)


@any_optimizer
@any_form
def test_loading_into_a_fresh_optimizer_moves_nothing_and_training_goes_on_as_without(two_processes, form, name):
    """`torch.distributed.checkpoint` makes a step at learning rate 0 to find out what the state looks like."""
    found = two_processes[form][name]
    assert not differ(found["before loading"], found["after loading"])
    assert differ(found["after loading"], found["sharded"])
    assert_close(found["after the round trip"], found["sharded"], tolerance=0.0)


def started(make, late_from):
    model = programs.Branching()
    optimizer = make(model.parameters())
    programs.train(model, optimizer, range(programs.CUT), late_from)
    return model, optimizer


@any_optimizer
def test_one_process_resumes_from_a_distributed_checkpoint_on_disk(tmp_path, name):
    make, rest = programs.OPTIMIZERS[name], range(programs.CUT, len(programs.SCHEDULE))
    model, optimizer = started(make, late_from=2)
    dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=tmp_path, no_dist=True)
    resumed = copy.deepcopy(model)
    resumed.zero_grad()  # torch makes its step at learning rate 0 only where there are no gradients
    fresh = make(resumed.parameters())
    state = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    programs.train(model, optimizer, rest, late_from=2)
    dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(resumed, fresh, state["optimizer"])
    programs.train(resumed, fresh, rest, late_from=2)
    assert not differ(programs.parameters(resumed), programs.parameters(model))


@pytest.mark.parametrize("late_from", [0, 2])
def test_a_flattened_state_loses_nothing(late_from):
    """Not even the product of betas of a layer that joined late."""
    make, rest = programs.OPTIMIZERS["adamw"], range(programs.CUT, len(programs.SCHEDULE))
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    model, optimizer = started(make, late_from)
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    resumed = copy.deepcopy(model)
    resumed.zero_grad()  # torch makes its step at learning rate 0 only where there are no gradients
    fresh = make(resumed.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        set_optimizer_state_dict(resumed, fresh, state, options=options)
    for the_model, the_optimizer in ((model, optimizer), (resumed, fresh)):
        programs.train(the_model, the_optimizer, rest, late_from)
    assert not differ(programs.parameters(resumed), programs.parameters(model))
