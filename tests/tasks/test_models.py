"""Claims about the CIFAR ResNet, and about models as they are built and checked for a task."""

import math
from pathlib import Path

import pytest
import torch
from helpers.image_data import (
    one_sentence,
    resnet,
)
from scipy import stats
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.modeling_outputs import ImageClassifierOutput

from hf_critmom.tasks import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    ModelArguments,
    Task,
    TaskError,
    build_model,
    check_model,
)

# ---------------------------------------------------------------------------------------------------- the network


def test_the_usual_resnet_18_has_11_173_962_parameters() -> None:
    assert resnet().num_parameters() == 11_173_962


def test_parameters_fall_into_seven_layer_groups() -> None:
    groups = dict.fromkeys(tuple(name.split(".")[:2]) for name, _ in resnet(width=4).named_parameters())
    assert list(groups) == [
        ("resnet", group) for group in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")
    ]


def test_the_stem_keeps_the_resolution_and_nothing_is_pooled_before_layer1() -> None:
    model = resnet(width=4)
    stem = model.resnet.conv1
    assert (stem.kernel_size, stem.stride, stem.padding, stem.bias) == ((3, 3), (1, 1), (1, 1), None)
    assert not [name for name, module in model.named_modules() if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d))]
    sizes = {}
    for name in ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        module = getattr(model.resnet, name)
        module.register_forward_hook(lambda *call, name=name: sizes.update({name: tuple(call[2].shape[1:])}))
    model(torch.zeros(2, 3, 32, 32))
    assert sizes == {
        "conv1": (4, 32, 32),
        "maxpool": (4, 32, 32),
        "layer1": (4, 32, 32),
        "layer2": (8, 16, 16),
        "layer3": (16, 8, 8),
        "layer4": (32, 4, 4),
    }


def test_convolutions_start_as_kaiming_normal_over_the_outputs() -> None:
    torch.manual_seed(0)
    for name, module in resnet(width=32).named_modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2.0 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1]))
            drawn = module.weight.detach()
            tolerance = 5.0 * expected / math.sqrt(2.0 * drawn.numel())  # five deviations of a sample deviation
            assert float(drawn.std()) == pytest.approx(expected, abs=tolerance), name
            assert abs(float(drawn.mean())) < 5.0 * expected / math.sqrt(drawn.numel()), name


def test_the_classifier_starts_as_torchs_own_linear_layer() -> None:
    torch.manual_seed(0)
    fc = resnet(width=64).resnet.fc
    bound = 1.0 / math.sqrt(fc.in_features)
    for drawn in (fc.weight.detach(), fc.bias.detach()):
        assert float(drawn.abs().max()) <= bound
    assert stats.kstest(fc.weight.detach().numpy().ravel(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
    assert float(fc.weight.detach().std()) == pytest.approx(bound / math.sqrt(3.0), rel=0.03)


def test_batch_norm_starts_as_the_identity_in_every_block() -> None:
    for module in resnet(width=4).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.bias, torch.zeros_like(module.bias))


def test_loss_is_the_mean_cross_entropy_and_a_tuple_is_returned_on_request() -> None:
    model = resnet(width=4).eval()
    pixels, labels = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 3, 9])
    outputs = model(pixels, labels=labels)
    by_hand = -torch.stack([row.log_softmax(0)[label] for row, label in zip(outputs.logits, labels, strict=True)])
    torch.testing.assert_close(outputs.loss, by_hand.mean())
    loss, logits = model(pixels, labels=labels, return_dict=False)
    assert torch.equal(loss, outputs.loss) and torch.equal(logits, outputs.logits)
    assert model(pixels).loss is None
    assert len(model(pixels, return_dict=False)) == 1


@pytest.mark.parametrize(("width", "channels"), [(16, 1), (4, 3)])
def test_a_saved_model_comes_back_bit_for_bit_through_the_auto_classes(
    tmp_path: Path, width: int, channels: int
) -> None:
    names = {index: f"class {index}" for index in range(5)}
    model = resnet(width=width, num_channels=channels, image_size=8, id2label=names, num_labels=5)
    model.train()
    model(torch.randn(8, channels, 8, 8))  # moves the running statistics away from their start
    model.save_pretrained(tmp_path)
    pixels = torch.randn(3, channels, 8, 8)
    assert type(AutoConfig.from_pretrained(tmp_path)) is CifarResNetConfig
    for auto in (AutoModelForImageClassification, CifarResNetForImageClassification):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is CifarResNetForImageClassification
        assert (loaded.config.width, loaded.config.num_channels, loaded.config.image_size) == (width, channels, 8)
        assert loaded.config.id2label == names
        expected, found = model.state_dict(), loaded.state_dict()
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert torch.equal(loaded.eval()(pixels).logits, model.eval()(pixels).logits)


# ------------------------------------------------------------------------------------------------------ build_model


def test_weights_are_a_function_of_the_seed_alone(digits: Task) -> None:
    arguments = ModelArguments(width=4)
    first = build_model(digits, arguments, seed=3).state_dict()
    torch.rand(100)  # what was drawn in between must not matter
    again = build_model(digits, arguments, seed=3).state_dict()
    other = build_model(digits, arguments, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["resnet.conv1.weight"], other["resnet.conv1.weight"])
    assert not torch.equal(first["resnet.fc.weight"], other["resnet.fc.weight"])


def test_the_model_is_made_for_the_tasks_images_and_classes(digits: Task) -> None:
    config = build_model(digits, ModelArguments(width=4), seed=0).config
    assert (config.num_channels, config.image_size, config.num_labels, config.width) == (1, 8, 10, 4)
    assert config.id2label == dict(enumerate("0123456789"))
    assert build_model(digits, ModelArguments(), seed=0).config.width == 64


def test_a_saved_classifier_of_other_classes_gets_a_new_head_from_the_seed(digits: Task, tmp_path: Path) -> None:
    saved = resnet(width=4, num_channels=1, num_labels=3)
    saved.save_pretrained(tmp_path)
    arguments = ModelArguments(model_name_or_path=str(tmp_path))
    first, again, other = (build_model(digits, arguments, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.resnet.conv1.weight, saved.resnet.conv1.weight)
    assert first.resnet.fc.out_features == 10
    assert torch.equal(first.resnet.fc.weight, again.resnet.fc.weight)
    assert not torch.equal(first.resnet.fc.weight, other.resnet.fc.weight)


def test_an_unknown_model_is_answered_with_the_known_ones(digits: Task) -> None:
    with pytest.raises(TaskError) as caught:
        build_model(digits, ModelArguments(model="resnet19"), seed=0)
    assert "'resnet19'" in one_sentence(caught.value) and "resnet18" in str(caught.value)


@pytest.mark.parametrize("width", [5, 1, 0, -2])
def test_a_width_that_is_not_even_and_positive_is_refused(digits: Task, width: int) -> None:
    with pytest.raises(TaskError, match=f"even number of channels, got {width}"):
        build_model(digits, ModelArguments(width=width), seed=0)


def test_a_model_that_does_not_exist_is_refused_in_one_sentence(digits: Task, tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    with pytest.raises(TaskError) as caught:
        build_model(digits, ModelArguments(model_name_or_path=missing), seed=0)
    assert missing in one_sentence(caught.value)


def test_a_folder_without_a_model_and_a_truncated_model_are_refused(digits: Task, tmp_path: Path) -> None:
    with pytest.raises(TaskError) as caught:
        build_model(digits, ModelArguments(model_name_or_path=str(tmp_path)), seed=0)
    assert str(tmp_path) in one_sentence(caught.value)
    resnet(width=4, num_channels=1).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(TaskError) as caught:
        build_model(digits, ModelArguments(model_name_or_path=str(tmp_path)), seed=0)
    assert str(tmp_path) in one_sentence(caught.value)


class LossOf(PreTrainedModel):
    """A classifier whose loss is whatever it was told."""

    config_class = CifarResNetConfig

    def __init__(self, loss: float | None) -> None:
        super().__init__(CifarResNetConfig(num_labels=10))
        self.scale = nn.Parameter(torch.ones(()))
        self.loss = loss

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> ImageClassifierOutput:
        logits = self.scale * pixel_values.mean() * torch.ones(len(pixel_values), 10)
        return ImageClassifierOutput(loss=None if self.loss is None else torch.tensor(self.loss), logits=logits)


def test_a_model_that_returns_no_finite_loss_is_refused(digits: Task) -> None:
    check_model(LossOf(2.3), digits)
    for loss, words in ((None, "no loss"), (math.nan, "the loss nan"), (math.inf, "the loss inf")):
        with pytest.raises(TaskError) as caught:
            check_model(LossOf(loss), digits)
        assert f"LossOf returned {words}" in one_sentence(caught.value)


def test_a_plain_module_is_refused(digits: Task) -> None:
    class LogitsOnly(nn.Module):
        def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(pixel_values), 10)

    with pytest.raises(TaskError, match="LogitsOnly returned no loss"):
        check_model(LogitsOnly(), digits)  # type: ignore[arg-type]


def test_a_model_made_for_other_images_or_classes_is_refused(digits: Task) -> None:
    vit = ViTForImageClassification(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32)
    )
    too_few_classes = resnet(width=4, num_channels=1, num_labels=2)
    for model in (vit, resnet(width=4, num_channels=3), too_few_classes):
        with pytest.raises(TaskError) as caught:
            check_model(model, digits)
        assert "(1, 8, 8)" in one_sentence(caught.value)


def test_checking_leaves_a_model_as_it_was(digits: Task) -> None:
    model = build_model(digits, ModelArguments(width=4), seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_model(model.train(), digits)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
