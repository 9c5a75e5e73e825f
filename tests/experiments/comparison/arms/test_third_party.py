"""Claims about third-party optimizers: what can be built from parameters and a learning rate is an arm."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_critmom.experiments.comparison.arms.third_party import is_third_party, parse_arm, third_party_optimizer
from hf_critmom.experiments.comparison.errors import ComparisonError


@pytest.mark.parametrize(
    "source",
    [
        "timm:lion",
        "timm:adopt",
        "timm:muon",
        "timm:LaProp",
        "torch.optim.NAdam",
        "torch.optim.Adagrad",
        "optim:adafactor",
    ],
)
def test_a_third_party_optimizer_trains_a_network(source: str) -> None:
    cls, kwargs = third_party_optimizer(source, {}, 0.01)
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 1)
    optimizer = cls([{"params": [layer.weight], "weight_decay": 0.0}, {"params": [layer.bias]}], **kwargs)
    inputs = torch.randn(64, 4)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (layer(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(group["lr"] == 0.01 for group in optimizer.param_groups)


def test_options_reach_the_optimizer() -> None:
    cls, kwargs = third_party_optimizer("timm:lion", {"betas": (0.8, 0.9)}, 1e-3)
    optimizer = cls([torch.zeros(2, requires_grad=True)], **kwargs)
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    cls, kwargs = third_party_optimizer("optim:critmom", {"rule": "exact"}, 0.1)
    assert cls([torch.zeros(2, requires_grad=True)], **kwargs).defaults["rule"] == "exact"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("timm:lyon", "did you mean lion"),
        ("optim:adamv", "did you mean"),
        ("torch.optim.Muom", "did you mean muon"),
        ("torch.optim.LBFGS", "cannot be built"),
        ("torch.nn.Linear", "is not an optimizer"),
        ("os.system", "cannot be built"),
        ("nopackage.Adam", "install its package"),
        ("nope:adam", "Unknown source 'nope'"),
        ("torch.optim.lr_scheduler.StepLR", "is not an optimizer"),
        ("optim:lomo", "cannot be built"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(source: str, words: str) -> None:
    with pytest.raises(ComparisonError) as caught:
        third_party_optimizer(source, {}, 0.01)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_factory_that_needs_more_than_a_learning_rate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim, "made", lambda params, lr, total_steps: torch.optim.SGD(params, lr), raising=False)
    with pytest.raises(ComparisonError, match="total_steps"):
        third_party_optimizer("torch.optim.made", {}, 0.1)
    cls, kwargs = third_party_optimizer("torch.optim.made", {"total_steps": 5}, 0.1)
    assert isinstance(cls([torch.zeros(1, requires_grad=True)], **kwargs), torch.optim.SGD)


@pytest.mark.parametrize("options", [{"nope": 1}, {"betas": "x"}])
def test_options_that_it_refuses_are_named(options: dict[str, object]) -> None:
    with pytest.raises(ComparisonError, match=next(iter(options))):
        third_party_optimizer("timm:lion", options, 0.01)


def test_trying_an_optimizer_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    third_party_optimizer("timm:lion", {}, 0.01)
    assert torch.equal(torch.rand(3), expected)


def test_an_arm_is_read_with_name_options_and_its_own_rates() -> None:
    arm = parse_arm("slow=timm:lion[lr=1e-4, weight_decay=0.1,betas=(0.9,0.99),schedule=constant,foreach=true]")
    assert (arm.name, arm.source, arm.schedule) == ("slow", "timm:lion", "constant")
    assert (arm.learning_rate, arm.weight_decay) == (1e-4, 0.1)
    assert arm.options == {"betas": (0.9, 0.99), "foreach": True}


@pytest.mark.parametrize(
    ("source", "name"),
    [("timm:lion", "timm-lion"), ("torch.optim.Muon", "torch.optim.Muon"), ("optim:adafactor", "optim-adafactor")],
)
def test_a_name_is_made_from_the_source(source: str, name: str) -> None:
    assert is_third_party(source) and parse_arm(source).name == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "lion", "timm:", "timm:lion[", "timm:lion[lr]", "timm:lion[lr=]", "timm:lion[=1]", "timm:lion[a=(1]"),
        *("timm:lion[lr=fast]", "timm:lion[lr=1,learning_rate=2]", "timm:lion[lr=1]x", "timm:lion[lr=True]"),
        *("../x", "/etc/passwd", "a b.c", ".", "..", ":", "timm:../x", "a..b", "torch.optim"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(text: str) -> None:
    with pytest.raises(ComparisonError) as caught:
        arm = parse_arm(text)
        third_party_optimizer(arm.source, arm.options, arm.learning_rate or 0.1)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="timlon:.[](){}=,'\"0a_-/ ", max_size=30))
def test_a_name_can_be_that_of_a_folder(text: str) -> None:
    try:
        arm = parse_arm(text)
    except ComparisonError as error:
        assert "\n" not in str(error)
        return
    assert arm.name and "/" not in arm.name and not arm.name.startswith((".", "-"))
