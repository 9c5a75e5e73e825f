"""Claims about restoring weights: whatever a checkpoint holds arrives in the model, or a sentence says why not."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.tiny_models import FAMILIES, IMAGE_CLASSIFIERS, LANGUAGE_MODELS, tiny_data, tiny_model
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from hf_critmom import CritMomTrainer
from hf_critmom.storage.checkpoints import CheckpointError
from hf_critmom.training.weights import restore_weights

WEIGHTS = "model.safetensors"


def trainer_of(family, folder, *, seed=0, model=None, trainer_cls=CritMomTrainer, **fields):
    args = TrainingArguments(
        **{
            **{"output_dir": str(folder), "use_cpu": True, "optim": "critmom", "learning_rate": 0.02, "max_steps": 4},
            **{"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2, "report_to": "none"},
            **{"disable_tqdm": True, "logging_steps": 1, "dataloader_pin_memory": False},
            **fields,
        }
    )
    data = tiny_data(family)
    model = tiny_model(family, seed) if model is None else model
    return trainer_cls(model, args, train_dataset=data, eval_dataset=data[:4])


def tensors(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def saved(family, folder, **options):
    """A model, and a checkpoint of it."""
    model = tiny_model(family)
    checkpoint = folder / "checkpoint-1"
    model.save_pretrained(checkpoint, **options)
    return model, checkpoint


# ------------------------------------------------------------------------------------------------ every architecture


@pytest.mark.parametrize("family", [*FAMILIES, "CifarResNet"])
def test_a_resumed_run_restores_every_tensor_and_ends_the_same_to_the_bit(family, tmp_path):
    straight = trainer_of(family, tmp_path / "straight")
    straight.train()
    resumed = trainer_of(family, tmp_path / "resumed", seed=1)  # it must take nothing from its own initial weights
    at_resumption = {}
    original = resumed.create_optimizer
    resumed.create_optimizer = lambda *args: at_resumption.update(tensors(resumed.model)) or original(*args)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    assert_equal(tensors(resumed.model), tensors(straight.model))
    stored = tiny_model(family, seed=2)
    stored = type(stored).from_pretrained(tmp_path / "straight" / "checkpoint-2", dtype=torch.float32)
    assert_equal(at_resumption, tensors(stored))


def test_without_us_transformers_leaves_tensors_as_they_were_initialised(tmp_path):
    """The fault that is mended here; when Transformers mends it itself, this says so."""
    straight = trainer_of("ViT", tmp_path / "straight", trainer_cls=Trainer)
    straight.train()
    resumed = trainer_of("ViT", tmp_path / "resumed", seed=1, trainer_cls=Trainer)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    ours, theirs = tensors(resumed.model), tensors(straight.model)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize("family", ["ViT", "Mixtral"])
def test_the_best_model_at_the_end_is_the_whole_of_it(family, tmp_path):
    fields = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    fields |= {"metric_for_best_model": "loss", "greater_is_better": True, "learning_rate": 0.05}
    trainer = trainer_of(family, tmp_path, **fields)  # the worst loss is called the best, so it is not the last
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert trainer.state.best_global_step < trainer.state.global_step
    assert_equal(tensors(trainer.model), tensors(type(trainer.model).from_pretrained(best, dtype=torch.float32)))


@pytest.mark.parametrize("family", ["ViT", "Mixtral", "GPT2"])
def test_shards_are_restored(family, tmp_path):
    model, checkpoint = saved(family, tmp_path, max_shard_size="4KB")
    assert len(list(checkpoint.glob("model-*.safetensors"))) > 2 and not (checkpoint / WEIGHTS).exists()
    other = tiny_model(family, seed=1)
    restore_weights(other, checkpoint)
    assert_equal(tensors(other), tensors(model))


@pytest.mark.parametrize("sharded", [False, True])
def test_files_of_torch_are_restored(sharded, tmp_path):
    model, checkpoint = saved("ViT", tmp_path, max_shard_size="4KB" if sharded else "1GB")
    for file in checkpoint.glob("*.safetensors"):
        torch.save(safetensors.torch.load_file(file), checkpoint / f"{file.stem.replace('model', 'pytorch_model')}.bin")
        file.unlink()
    if sharded:
        index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
        renamed = {
            name: f"pytorch_{file.removesuffix('.safetensors')}.bin" for name, file in index["weight_map"].items()
        }
        (checkpoint / "model.safetensors.index.json").unlink()
        (checkpoint / "pytorch_model.bin.index.json").write_text(json.dumps({**index, "weight_map": renamed}))
    other = tiny_model("ViT", seed=1)
    restore_weights(other, checkpoint)
    assert_equal(tensors(other), tensors(model))


@pytest.mark.parametrize("family", ["ViT", "GPT2"])
def test_weights_stay_tied_and_parameters_stay_the_same_objects(family, tmp_path):
    _, checkpoint = saved(family, tmp_path)
    model = tiny_model(family, seed=1)
    before = dict(model.named_parameters())
    restore_weights(model, checkpoint)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    if family == "GPT2":
        assert model.lm_head.weight is model.transformer.wte.weight


def test_buffers_that_are_not_saved_keep_what_the_constructor_computed(tmp_path):
    _, checkpoint = saved("Llama", tmp_path)
    model = tiny_model("Llama", seed=1)
    model.model.rotary_emb.inv_freq.fill_(7.0)
    restore_weights(model, checkpoint)
    assert (model.model.rotary_emb.inv_freq == 7.0).all()


def test_running_statistics_are_restored(tmp_path):
    model = tiny_model("ResNet")
    model.train()(pixel_values=torch.randn(4, 3, 16, 16))
    model.save_pretrained(tmp_path)
    other = tiny_model("ResNet", seed=1)
    restore_weights(other, tmp_path)
    assert_equal(tensors(other), tensors(model))


def with_own_head(seed):
    """A classifier whose head was replaced after construction, as fine-tuning scripts do."""
    model = tiny_model("ViT", seed)
    model.classifier = nn.Sequential(nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3))
    return model


def test_a_head_that_was_replaced_is_restored_with_the_rest(tmp_path):
    model = with_own_head(0)
    model.save_pretrained(tmp_path)
    other = with_own_head(1)
    restore_weights(other, tmp_path)
    assert_equal(tensors(other), tensors(model))


class Plain(nn.Module):
    """A module of nobody's library."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 32)

    def forward(self, input_ids, labels=None):
        return {"loss": self.linear(input_ids.float()).square().mean()}


def test_a_plain_module_is_restored(tmp_path):
    straight = trainer_of("GPT2", tmp_path / "straight", model=Plain(), learning_rate=1e-4)
    straight.train()
    resumed = trainer_of("GPT2", tmp_path / "resumed", model=Plain(), learning_rate=1e-4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    assert_equal(tensors(resumed.model), tensors(straight.model))


class OwnConstructor(ViTForImageClassification):
    """A model that its class cannot load, for it needs more than a configuration."""

    def __init__(self, config, needed):
        super().__init__(config)


def test_a_model_that_only_its_author_can_construct_is_restored(tmp_path):
    config = ViTConfig(**IMAGE_CLASSIFIERS["ViT"])
    model = OwnConstructor(config, 1)
    model.save_pretrained(tmp_path)
    other = OwnConstructor(config, 1)
    restore_weights(other, tmp_path)
    assert_equal(tensors(other), tensors(model))


def test_a_compiled_model_is_restored(tmp_path):
    model, checkpoint = saved("Llama", tmp_path)
    other = torch.compile(tiny_model("Llama", seed=1))
    restore_weights(other, checkpoint)
    assert_equal(tensors(other._orig_mod), tensors(model))


def test_restoring_draws_no_random_numbers(tmp_path):
    _, checkpoint = saved("ViT", tmp_path)
    other = tiny_model("ViT", seed=1)
    state = torch.get_rng_state()
    restore_weights(other, checkpoint)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_dtype_of_the_file_and_of_the_model_may_differ_where_nothing_is_lost(stored, tmp_path):
    model = tiny_model("ViT").to(stored)
    model.save_pretrained(tmp_path)
    wide = tiny_model("ViT", seed=1)
    restore_weights(wide, tmp_path)
    assert_equal(tensors(wide), {name: value.float() for name, value in tensors(model).items()})
    narrow = tiny_model("ViT", seed=1).to(torch.bfloat16)
    if stored == torch.bfloat16:
        restore_weights(narrow, tmp_path)
        assert_equal(tensors(narrow), tensors(model))
    else:
        with pytest.raises(CheckpointError, match=r"as torch.float32, and the model has it as torch.bfloat16"):
            restore_weights(narrow, tmp_path)


def test_mixed_dtypes_are_restored_to_the_bit(tmp_path):
    model, other = tiny_model("Llama").to(torch.bfloat16), tiny_model("Llama", seed=1).to(torch.bfloat16)
    for one in (model, other):
        one.model.norm.to(torch.float32)
    model.model.norm.weight.data.mul_(1.0 + 2.0**-20)
    model.save_pretrained(tmp_path)
    restore_weights(other, tmp_path)
    assert_equal(tensors(other), tensors(model))


def test_weights_of_a_diverged_run_are_restored_as_they_are(tmp_path):
    model = tiny_model("ViT")
    model.classifier.bias.data[0] = float("nan")
    model.save_pretrained(tmp_path)
    other = tiny_model("ViT", seed=1)
    restore_weights(other, tmp_path)
    assert other.classifier.bias[0].isnan() and torch.equal(other.classifier.weight, model.classifier.weight)


# ------------------------------------------------------------------------------------------------ what cannot be used


def change(checkpoint, edit):
    weights = safetensors.torch.load_file(checkpoint / WEIGHTS)
    edit(weights)
    safetensors.torch.save_file(weights, checkpoint / WEIGHTS, metadata={"format": "pt"})


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE = {
    "missing": (lambda one: (one / WEIGHTS).unlink(), "holds no weights"),
    "empty": (lambda one: (one / WEIGHTS).write_bytes(b""), "cannot be read"),
    "truncated": (lambda one: truncate(one / WEIGHTS), "cannot be read"),
    "text": (lambda one: (one / WEIGHTS).write_text("{}"), "cannot be read"),
    "a tensor less": (lambda one: change(one, lambda w: w.pop("classifier.bias")), "does not hold classifier.bias"),
    "a converted one less": (
        lambda one: change(one, lambda w: w.pop("vit.encoder.layer.1.output.dense.bias")),
        "does not hold vit.layers.1.*bias",
    ),
    "a tensor more": (
        lambda one: change(one, lambda w: w.update({"vit.encoder.layer.7.output.dense.bias": torch.ones(2)})),
        "holds vit.encoder.layer.7.output.dense.bias, which ViTForImageClassification has no place for",
    ),
    "another shape": (
        lambda one: change(one, lambda w: w.update({"classifier.weight": torch.ones(4, 16)})),
        "does not hold classifier.weight in the shape",
    ),
    "another model": (
        lambda one: shutil.copy(saved("GPT2", one.parent / "other")[1] / WEIGHTS, one / WEIGHTS),
        "does not hold vit.embeddings.cls_token",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_weights_are_a_sentence_and_leave_the_model_as_it_was(damage, sentence, tmp_path):
    _, checkpoint = saved("ViT", tmp_path)
    damage(checkpoint)
    model = tiny_model("ViT", seed=1)
    before = tensors(model)
    with pytest.raises(CheckpointError, match=sentence) as raised:
        restore_weights(model, checkpoint)
    assert str(checkpoint) in str(raised.value) and "\n" not in str(raised.value)
    assert_equal(tensors(model), before)


@pytest.mark.parametrize("shape", [None, (3, 3)])
def test_an_expert_that_is_missing_or_misshapen_is_noticed(shape, tmp_path):
    _, checkpoint = saved("Mixtral", tmp_path)
    name = "model.layers.1.block_sparse_moe.experts.1.w2.weight"
    change(checkpoint, lambda w: w.pop(name) if shape is None else w.update({name: torch.ones(shape)}))
    sentence = r"does not hold model\.layers\.1" if shape is None else "cannot be converted for MixtralForCausalLM"
    with pytest.raises(CheckpointError, match=sentence):
        restore_weights(tiny_model("Mixtral", seed=1), checkpoint)


class Explosive:
    """An object whose pickle does something when it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_no_pickle_is_executed(tmp_path):
    _, checkpoint = saved("ViT", tmp_path)
    (checkpoint / WEIGHTS).unlink()
    torch.save({"classifier.bias": Explosive(tmp_path / "executed")}, checkpoint / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin cannot be read"):
        restore_weights(tiny_model("ViT"), checkpoint)
    assert not (tmp_path / "executed").exists()


def test_a_best_checkpoint_that_is_gone_is_a_sentence(tmp_path):
    trainer = trainer_of("ViT", tmp_path)
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-9")
    with pytest.raises(CheckpointError, match="checkpoint-9 holds no weights"):
        trainer._load_best_model()


# ----------------------------------------------------------------------------------------------------------- adapters


def with_adapter(seed):
    peft = pytest.importorskip("peft")
    base = tiny_model("Llama", seed=0)
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return peft.get_peft_model(base, config)


def test_an_adapter_is_restored_and_ends_the_same_to_the_bit(tmp_path):
    straight = trainer_of("Llama", tmp_path / "straight", model=with_adapter(0))
    straight.train()
    resumed = trainer_of("Llama", tmp_path / "resumed", model=with_adapter(1))
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    assert_equal(tensors(resumed.model), tensors(straight.model))


def test_the_best_adapter_is_restored(tmp_path):
    fields = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    fields |= {"metric_for_best_model": "loss", "greater_is_better": True, "learning_rate": 0.5}
    trainer = trainer_of("Llama", tmp_path, model=with_adapter(0), **fields)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert trainer.state.best_global_step < trainer.state.global_step
    stored = safetensors.torch.load_file(best / "adapter_model.safetensors")
    current = tensors(trainer.model)
    for name, value in stored.items():
        assert torch.equal(current[name.replace(".weight", ".default.weight")], value)


def test_an_adapter_of_another_model_is_a_sentence(tmp_path):
    straight = trainer_of("Llama", tmp_path, model=with_adapter(0))
    straight.train()
    file = tmp_path / "checkpoint-2" / "adapter_model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights.pop(next(iter(weights)))
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    resumed = trainer_of("Llama", tmp_path / "resumed", model=with_adapter(1))
    with pytest.raises(CheckpointError, match="of the adapter 'default' are not as"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_every_family_is_tried():
    assert {"ViT", "DeiT", "Beit", "Dinov2", "ViTMSN", "Swin", "Mixtral", "Qwen2Moe", "GPT2", "Llama"} <= set(FAMILIES)
    assert issubclass(type(tiny_model("ViT")), PreTrainedModel) and LANGUAGE_MODELS
