"""Claims about the private pieces of other packages: each is there, is used through one module, and is missed aloud."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import hf_critmom
from hf_critmom import IKFAD, CritMomAdamW, CritMomSGD, upstream
from hf_critmom.errors import InputError
from hf_critmom.upstream import PIECES, TESTED, UpstreamChangedError


def check(name):
    upstream.CHECKS.get(name, PIECES[name].fetch)()


@pytest.mark.parametrize("name", PIECES)
def test_every_piece_is_in_the_installed_releases(name):
    check(name)


def changed(path, value=None):
    """A change of another package: ``module:Class.attribute`` is gone, or something else."""
    module, _, names = path.partition(":")
    *owners, attribute = names.split(".")
    owner = import_module(module)
    for name in owners:
        owner = getattr(owner, name)
    return owner, attribute, value


CHANGES = {
    "unhooked_step": [
        ("torch.optim:Optimizer._patch_step_function", None),
        ("torch.optim:Optimizer._patch_step_function", lambda self: None),
    ],
    "leave_unscaling_to_scaler": [("torch.amp:GradScaler.step", lambda self, optimizer: None)],
    "multi_tensor_operations": [("torch:_foreach_addcmul_", None)],
    "fused_sgd": [("torch:_fused_sgd_", None)],
    "wrapper_attributes": [("torch.distributed.fsdp._common_utils:FSDP_WRAPPED_MODULE", "_wrapped")],
    "optimizer_names": [("transformers.training_args:OptimizerNames", None)],
    "optimizer_handlers": [("transformers.trainer_optimizer:_OPTIMIZER_HANDLERS", None)],
    "optim_args_parser": [
        ("transformers.trainer_optimizer:_parse_optim_args", None),
        ("transformers.trainer:_parse_optim_args", None),
        ("transformers.trainer_optimizer:_parse_optim_args", lambda text, model: {}),
    ],
    "trainer_loading": [
        ("transformers:Trainer._load_best_model", None),
        ("transformers:Trainer._load_from_checkpoint", lambda self, checkpoint: None),
    ],
    "weight_reversion": [
        ("transformers.core_model_loading:revert_weight_conversion", None),
        ("transformers.core_model_loading:revert_weight_conversion", lambda model: {}),
    ],
    "uncompiled_model": [("torch._dynamo.eval_frame:OptimizedModule.__init__", lambda self, mod: None)],
    "forward_without_autocast": [("accelerate:Accelerator.prepare_model", lambda self, model: model)],
    "rows_of_last_batch": [("accelerate.data_loader:DataLoaderStateMixin.reset", lambda self: None)],
}
CASES = [(name, path, value) for name, changes in CHANGES.items() for path, value in changes]


def test_a_change_is_simulated_of_every_piece():
    assert CHANGES.keys() == PIECES.keys()


@pytest.mark.parametrize(("name", "path", "value"), CASES, ids=[f"{name}-{path}" for name, path, _ in CASES])
def test_a_release_that_has_changed_a_piece_is_met_with_a_sentence(name, path, value, monkeypatch):
    owner, attribute, value = changed(path, value)
    if value is None:
        monkeypatch.delattr(owner, attribute)
    else:
        monkeypatch.setattr(owner, attribute, value)
    with pytest.raises(UpstreamChangedError) as error:
        check(name)
    piece, sentence = PIECES[name], str(error.value)
    for word in (piece.name, piece.package, piece.purpose, sys.modules[piece.package].__version__):
        assert word in sentence
    assert f"{piece.package}=={TESTED[piece.package]}" in sentence
    assert isinstance(error.value, InputError), "commands turn it into their last line"
    assert upstream.table().count("| changed |") >= 1


def test_the_table_names_every_piece():
    table = upstream.table()
    assert "| changed |" not in table
    for piece in PIECES.values():
        assert f"| `{piece.name}` | {piece.package} | {piece.purpose} |" in table


@pytest.mark.parametrize("make", [CritMomSGD, CritMomAdamW])
def test_an_optimizer_without_its_piece_says_so_before_it_moves_anything(make, monkeypatch):
    from hf_critmom.optim import adamw, sgd

    for cached in (sgd.sgd_step, adamw._adamw_step):
        cached.cache_clear()
        monkeypatch.setattr(torch.optim.Optimizer, "_patch_step_function", lambda self: None)
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = make([p], lr=0.1)
    p.grad = torch.ones(1)
    with pytest.raises(UpstreamChangedError, match="hooked"):
        optimizer.step()
    assert p.item() == 1.0


def test_ikfad_without_its_piece_says_so_when_it_is_constructed(monkeypatch):
    monkeypatch.delattr(torch, "_foreach_exp_")
    with pytest.raises(UpstreamChangedError, match="_foreach_"):
        IKFAD([torch.nn.Parameter(torch.ones(1))], lr=0.1)


def test_a_trainer_whose_option_text_cannot_be_explained_still_knows_the_names(monkeypatch):
    monkeypatch.delattr("transformers.trainer_optimizer._parse_optim_args")
    with pytest.warns(UserWarning, match="_parse_optim_args"):
        hf_critmom.register()


def test_no_other_file_reaches_into_a_private_piece():
    """By name: the pieces here, and underscored attributes of what these packages give."""
    private = re.compile(
        r"_OPTIMIZER_HANDLERS|_parse_optim_args|_value2member_map_ *=|__wrapped__|\.hooked\b|_patch_step_function"
        r"|_step_supports_amp_scaling|_fsdp_wrapped_module|_checkpoint_wrapped_module|\._orig_mod|torch\._foreach_norm|\.end_of_dataloader"
        r"|packaged_modules|\._prepare_inputs|_created_lr_scheduler|\b_run_epoch"
    )
    package = Path(hf_critmom.__file__).parent
    found = [
        f"{file.relative_to(package)}: {line.strip()}"
        for file in sorted(package.rglob("*.py"))
        if file.name != "upstream.py"
        for line in file.read_text(encoding="utf-8").splitlines()
        if private.search(line)
    ]
    assert found == []
