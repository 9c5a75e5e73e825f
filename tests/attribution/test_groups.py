"""Claims about layer groups: every parameter is in one, and the groups are those that people mean."""

import pytest
import timm
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    LlamaConfig,
    ResNetConfig,
    T5Config,
    T5ForConditionalGeneration,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
)

from hf_critmom import CifarResNetConfig, CifarResNetForImageClassification
from hf_critmom.attribution import AttributionError, LayerGroups, layer_groups
from hf_critmom.attribution.names import clean_name, named_parameters

SEVEN = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")
SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
SMALL_GPT2 = {"vocab_size": 16, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
SMALL_IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def cifar_resnet(**fields):
    return CifarResNetForImageClassification(CifarResNetConfig(width=2, **fields))


def gpt2(**fields):
    return AutoModelForCausalLM.from_config(GPT2Config(**SMALL_GPT2, **SMALL_IDS, **fields))


def llama(**fields):
    config = LlamaConfig(vocab_size=16, num_key_value_heads=2, **SMALL, **SMALL_IDS, **fields)
    return AutoModelForCausalLM.from_config(config)


MODELS = {
    "the project's ResNet": (cifar_resnet, SEVEN),
    "a ResNet of one block a stage": (lambda: cifar_resnet(num_blocks=(1, 1, 1, 1)), SEVEN),
    "timm's ResNet-18": (lambda: timm.create_model("resnet18", num_classes=3), SEVEN),
    "timm's ResNet with a deep stem": (lambda: timm.create_model("resnet26d", num_classes=3), SEVEN),
    "a ResNet of Transformers": (
        lambda: AutoModelForImageClassification.from_config(
            ResNetConfig(embedding_size=4, hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1])
        ),
        ("embeddings", "block0", "block1", "block2", "block3", "head"),
    ),
    "timm's ViT": (
        lambda: timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=2, embed_dim=12),
        ("embeddings", "block0", "block1", "norm", "head"),
    ),
    "a ViT of Transformers": (
        lambda: AutoModelForImageClassification.from_config(ViTConfig(image_size=8, patch_size=4, **SMALL)),
        ("embeddings", "block0", "block1", "norm", "head"),
    ),
    "timm's ConvNeXt": (
        lambda: timm.create_model("convnext_atto", num_classes=3),
        ("embeddings", "block0", "block1", "block2", "block3", "head"),
    ),
    "GPT-2": (gpt2, ("embeddings", "block0", "block1", "norm")),
    "GPT-2 with a head of its own": (
        lambda: gpt2(tie_word_embeddings=False),
        ("embeddings", "block0", "block1", "norm", "head"),
    ),
    "Llama": (llama, ("embeddings", "block0", "block1", "norm", "head")),
    "Llama with tied weights": (
        lambda: llama(tie_word_embeddings=True),
        ("embeddings", "block0", "block1", "norm"),
    ),
    "BERT": (
        lambda: BertForSequenceClassification(BertConfig(vocab_size=16, **SMALL)),
        ("embeddings", "block0", "block1", "head"),
    ),
    "T5": (
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
        ),
        ("embeddings", *(f"{part}.{name}" for part in ("encoder", "decoder") for name in ("block0", "block1", "norm"))),
    ),
    "DenseNet, of no list of blocks": (
        lambda: timm.create_model("densenet121", num_classes=3),
        (
            *("features.conv0", "features.norm0", "features.denseblock1", "features.transition1"),
            *("features.denseblock2", "features.transition2", "features.denseblock3", "features.transition3"),
            *("features.denseblock4", "features.norm5", "classifier"),
        ),
    ),
    "a perceptron": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), ("0", "2")),
    "a single layer": (lambda: nn.Linear(3, 2), ("linear",)),
}
any_model = pytest.mark.parametrize(("make", "expected"), MODELS.values(), ids=MODELS)


@any_model
def test_the_groups_are_those_of_the_architecture(make, expected):
    assert layer_groups(make()).names == expected


@any_model
def test_every_parameter_is_in_one_group_and_shared_ones_count_once(make, expected):
    model = make()
    groups = layer_groups(model)
    parameters = [p for members in groups.of(model).values() for p in members.values()]
    assert len({id(p) for p in parameters}) == len(parameters)
    assert {id(p) for p in parameters} == {id(p) for p in model.parameters()}
    assert sum(p.numel() for p in parameters) == sum(p.numel() for p in model.parameters())


def test_the_seven_groups_have_the_known_share_of_resnet_18s_parameters():
    model = CifarResNetForImageClassification(CifarResNetConfig(width=64, num_labels=10))
    sizes = {name: sum(p.numel() for p in members.values()) for name, members in layer_groups(model).of(model).items()}
    assert sum(sizes.values()) == 11_173_962
    assert sizes["fc"] == 512 * 10 + 10 and sizes["conv1"] == 3 * 64 * 9 and sizes["bn1"] == 128
    assert sizes["layer4"] / 11_173_962 == pytest.approx(0.751, abs=1e-3)


def test_tied_weights_are_in_the_embeddings_and_said_to_be_tied():
    assert layer_groups(gpt2()).tied == {"lm_head.weight": "transformer.wte.weight"}
    assert layer_groups(gpt2(tie_word_embeddings=False)).tied == {}
    assert "transformer.wte.weight" in layer_groups(gpt2()).parameters["embeddings"]


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("module.conv1.weight", "conv1.weight"),
        ("_orig_mod.conv1.weight", "conv1.weight"),
        ("module._orig_mod.conv1.weight", "conv1.weight"),
        ("_orig_mod.module.conv1.weight", "conv1.weight"),
        ("_fsdp_wrapped_module.layers.0._fsdp_wrapped_module.weight", "layers.0.weight"),
        ("layers.0._orig_mod.weight", "layers.0.weight"),
        ("layers.0._checkpoint_wrapped_module.weight", "layers.0.weight"),
        ("base_model.model.transformer.h.0.attn.lora_A.weight", "transformer.h.0.attn.lora_A.weight"),
        ("module.base_model.model.classifier.weight", "classifier.weight"),
        ("encoder.module.weight", "encoder.module.weight"),  # a module that somebody called so
        ("base_model.weight", "base_model.weight"),
    ],
)
def test_names_lose_the_prefixes_of_wrappers_and_nothing_else(name, clean):
    assert clean_name(name) == clean


class Wrapper(nn.Module):
    def __init__(self, wrapped):
        super().__init__()
        self.module = wrapped


class PeftLike(nn.Module):
    """The tree that PEFT builds around a model."""

    def __init__(self, wrapped):
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = wrapped


@pytest.mark.parametrize("wrap", [Wrapper, PeftLike, lambda model: torch.compile(model, backend="eager")])
@pytest.mark.parametrize("make", [cifar_resnet, gpt2])
def test_wrappers_make_no_difference(wrap, make):
    model = make()
    wrapped = wrap(model)
    groups = layer_groups(wrapped)
    assert groups == layer_groups(model)
    assert groups.of(wrapped).keys() == groups.of(model).keys()


class Encoder(nn.Module):
    """The module in which sentence-transformers holds a model of Transformers."""

    def __init__(self, wrapped):
        super().__init__()
        self.auto_model = wrapped


def bert():
    return BertModel(BertConfig(vocab_size=16, **SMALL), add_pooling_layer=False)


def sentence_transformer(*further):
    return nn.Sequential(Encoder(bert()), nn.Identity(), *further)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)


WRAPPED = {
    "a sentence transformer": (sentence_transformer, ("embeddings", "block0", "block1")),
    "one with dense layers behind the model": (
        lambda: sentence_transformer(Head(), Head()),
        ("embeddings", "block0", "block1", "head"),
    ),
    "a cross encoder": (
        lambda: Encoder(BertForSequenceClassification(BertConfig(vocab_size=16, **SMALL))),
        ("embeddings", "block0", "block1", "head"),
    ),
    "a list of one network": (lambda: nn.ModuleList([cifar_resnet()]), SEVEN),
    "normalisation in front of a network of timm": (
        lambda: nn.Sequential(nn.Identity(), timm.create_model("resnet18", num_classes=3)),
        SEVEN,
    ),
    "a network of timm in Transformers": (
        lambda: TimmWrapperForImageClassification(
            TimmWrapperConfig(architecture="resnet18", num_labels=3, do_pooling=True)
        ),
        SEVEN,
    ),
    "parallel copies of a wrapped model": (
        lambda: nn.DataParallel(Encoder(gpt2())),
        ("embeddings", "block0", "block1", "norm"),
    ),
    "a compiled part": (
        lambda: Encoder(torch.compile(gpt2(), backend="eager")),
        ("embeddings", "block0", "block1", "norm"),
    ),
    "a model with one block": (
        lambda: AutoModelForCausalLM.from_config(GPT2Config(**{**SMALL_GPT2, "n_layer": 1}, **SMALL_IDS)),
        ("embeddings", "block0", "norm"),
    ),
}


@pytest.mark.parametrize(("make", "expected"), WRAPPED.values(), ids=WRAPPED)
def test_the_groups_of_a_wrapped_model_are_those_of_the_model_inside(make, expected):
    model = make()
    groups = layer_groups(model)
    assert tuple(name.rpartition("auto_model.")[2] for name in groups.names) == expected
    parameters = [p for members in groups.of(model).values() for p in members.values()]
    assert len({id(p) for p in parameters}) == len(parameters) == len(list(model.parameters()))


def test_two_networks_side_by_side_keep_their_blocks_apart():
    groups = layer_groups(nn.ModuleDict({"query": nn.Sequential(Encoder(bert())), "document": Encoder(bert())}))
    assert sum(name.endswith("block1") for name in groups.names) == 2
    assert not any(name in ("block0", "block1") for name in groups.names)


@pytest.mark.parametrize(
    "make", [gpt2, cifar_resnet, lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))]
)
def test_peft_adapts_layers_without_changing_the_groups(make):
    peft = pytest.importorskip("peft")
    model = make()
    expected = layer_groups(model).names
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", r=2))
    assert layer_groups(adapted).names == expected


# ------------------------------------------------------------------------------------------------ as the user wants it


def test_expressions_make_groups_and_the_rest_is_other():
    groups = layer_groups(cifar_resnet(), ["early=layer[12]", "layer3"])
    assert groups.names == ("other", "early", "layer3")
    assert all("layer3" in name for name in groups.parameters["layer3"])
    assert {name.split(".")[1] for name in groups.parameters["other"]} == {"conv1", "bn1", "layer4", "fc"}


def test_the_first_expression_that_fits_decides():
    groups = layer_groups(cifar_resnet(), ["convolutions=conv", "everything=."])
    assert "resnet.layer1.0.conv1.weight" in groups.parameters["convolutions"]
    assert not set(groups.parameters["convolutions"]) & set(groups.parameters["everything"])


def test_a_parenthesis_captures_the_name():
    groups = layer_groups(gpt2(), r"h\.(\d+)")
    assert groups.names == ("other", "0", "1")


def test_a_mapping_gives_expressions_or_lists_of_parameters():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    groups = layer_groups(model, {"weights": ["0.weight", "1.weight"], "biases": "bias"})
    assert groups.parameters == {"weights": ("0.weight", "1.weight"), "biases": ("0.bias", "1.bias")}


def test_groups_that_were_made_before_are_taken_as_they_are():
    model = cifar_resnet()
    groups = layer_groups(model, "layer")
    assert layer_groups(model, groups) is groups


# ----------------------------------------------------------------------------------------------------------- bad input


def refused(model, groups=None):
    with pytest.raises(AttributionError) as raised:
        layer_groups(model, groups)
    sentence = str(raised.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


def test_an_expression_that_fits_nothing_is_answered_with_the_known_groups():
    sentence = refused(cifar_resnet(), ["layre3"])
    assert "'layre3'" in sentence and ", ".join(SEVEN) in sentence


@pytest.mark.parametrize("groups", [["all=.", "head=fc"], {"all": ".", "head": ["fc.weight"]}, [".", "fc"]])
def test_a_group_that_earlier_ones_leave_nothing_is_no_silent_loss(groups):
    model = CifarResNetForImageClassification(CifarResNetConfig(width=2))
    model = nn.ModuleDict({"body": model, "fc": nn.Linear(2, 2)})
    with pytest.raises(AttributionError, match=r"No parameter is left for the layer group '(head|fc)'.*\((all|\.)\)"):
        layer_groups(model, groups)
    assert set(layer_groups(model, ["x=body", "x=fc", "x=weight"]).names) == {"x"}


def test_names_that_differ_by_a_wrappers_prefix_alone_are_refused():
    model = nn.ModuleDict({"module": nn.ModuleDict({"conv": nn.Linear(2, 2), "fc": nn.Linear(2, 2)})})
    assert next(iter(named_parameters(model))) == "conv.weight"
    model["fc"] = nn.Linear(2, 2)
    with pytest.raises(AttributionError, match=r"has parameters module\.fc\.weight and fc\.weight"):
        layer_groups(model)


def test_a_listed_parameter_must_exist():
    assert "(conv2.weight)" in refused(cifar_resnet(), {"stem": ["resnet.conv1.weight", "conv2.weight"]})


def test_a_broken_expression_is_named():
    assert "'layer[3' is not a regular expression" in refused(cifar_resnet(), ["layer[3"])


def test_a_model_without_parameters_is_refused():
    assert "Tanh has no parameters" in refused(nn.Tanh())


def test_groups_of_another_model_are_refused():
    assert "not of this GPT2LMHeadModel" in refused(gpt2(), layer_groups(cifar_resnet()))


def test_unknown_group_names_are_answered_with_the_known_ones():
    groups = layer_groups(cifar_resnet())
    assert groups.check(["fc", "layer3"]) == ("fc", "layer3")
    with pytest.raises(AttributionError, match=r"Unknown layer group 'layer5': this model has conv1, bn1"):
        groups.check(["layer4", "layer5"])
    with pytest.raises(AttributionError, match="No layer group was named"):
        groups.check([])


def test_parameters_are_named_in_the_models_order():
    model = gpt2()
    assert list(named_parameters(model)) == [name for name, _ in model.named_parameters()]
    assert isinstance(layer_groups(model), LayerGroups)
