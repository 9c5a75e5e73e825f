"""Claims about measured curvature: it is that of the full Hessian, and measuring leaves no trace."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers import curvature_programs as programs
from helpers.curvature_programs import convolutional, cross_entropy, exact_hessian, examples, perceptron, train
from helpers.curved_networks import NETWORKS, OnceDifferentiable, SilentlyWrong, network, sines
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from hf_critmom.curvature import CurvatureError, Objective, hessian, measure_curvature, preserved, top_eigenvalue
from hf_critmom.curvature.vectors import dot, random_unit_like

any_network = pytest.mark.parametrize("name", NETWORKS)


# --- The right numbers ----------------------------------------------------------------------------------------------


@any_network
@pytest.mark.parametrize("steps", [0, 4, 60])
def test_the_top_eigenvalue_is_that_of_the_full_hessian(name, steps):
    model, batch = network(name, steps)
    exact = torch.linalg.eigvalsh(exact_hessian(model, batch).double())
    assert len(exact) >= 300
    found = measure_curvature(model, [batch], cross_entropy)
    assert found.method == "double_backward"
    assert found.top.converged
    assert found.top.value == pytest.approx(exact[-1].item(), rel=0.01)
    assert (exact - found.top.value).abs().min() <= found.top.residual + 1e-4
    assert found.top.residual <= 0.02 * found.top.value
    assert exact[0].item() - 1e-4 <= found.top.lowest <= found.top.value


@any_network
def test_curvature_along_gradient_and_update_is_the_quadratic_form_of_the_full_hessian(name):
    model, batch = network(name, 3)
    before = copy.deepcopy(model)
    train(model, batch, 1)
    named = dict(model.named_parameters())
    update = {name: p.detach() - dict(before.named_parameters())[name].detach() for name, p in named.items()}
    matrix = exact_hessian(model, batch).double()
    gradient = torch.autograd.grad(cross_entropy(model, batch), list(named.values()))
    found = measure_curvature(model, [batch], cross_entropy, update=update)
    for curvature, vector in ((found.gradient, gradient), (found.update, update.values())):
        v = torch.cat([part.reshape(-1) for part in vector]).double()
        assert curvature == pytest.approx((v @ matrix @ v / (v @ v)).item(), rel=1e-3)
    assert found.gradient_norm == pytest.approx(
        torch.cat([part.reshape(-1) for part in gradient]).norm().item(), rel=1e-5
    )


def test_layer_groups_are_measured_on_their_own_blocks():
    model, batch = network("tanh", 5)
    groups = {"first": dict(model[0].named_parameters()), "rest": [*model[2].parameters(), *model[4].parameters()]}
    found = measure_curvature(model, [batch], cross_entropy, groups=groups, tolerance=1e-3)
    whole = exact_hessian(model, batch).double()
    for name, block in {"first": whole[:220, :220], "rest": whole[220:, 220:]}.items():
        assert found.groups[name].top.value == pytest.approx(torch.linalg.eigvalsh(block)[-1].item(), rel=1e-3)
        assert found.groups[name].top.value <= found.top.value * 1.001
    squares = sum(group.gradient_norm**2 for group in found.groups.values())
    assert math.sqrt(squares) == pytest.approx(found.gradient_norm, rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 7, 60])
@pytest.mark.parametrize("method", ["double_backward", "central_differences"])
def test_it_is_exact_on_quadratics(size, method):
    eigenvalues = [float(value) for value in np.linspace(-3.0, 8.0, size)] if size > 1 else [4.0]
    model = programs.Quadratic(eigenvalues)
    found = measure_curvature(
        model, [torch.zeros(4, dtype=torch.float64)], method=method, tolerance=1e-6, max_iterations=300
    )
    assert found.method == method
    assert found.top.converged
    assert found.top.value == pytest.approx(eigenvalues[-1], rel=1e-6)
    assert found.top.lowest == pytest.approx(eigenvalues[0], rel=1e-2)


def test_a_negative_definite_and_a_flat_loss_have_the_curvature_that_they_have():
    batch = [torch.zeros(4, dtype=torch.float64)]
    negative = measure_curvature(programs.Quadratic([-5.0, -2.0, -1.0, -0.5]), batch, tolerance=1e-6)
    assert negative.top.value == pytest.approx(-0.5, rel=1e-5)
    flat = measure_curvature(nn.Linear(3, 1), [torch.ones(4, 3)], lambda model, x: model(x).mean())
    assert (flat.top.value, flat.top.residual, flat.gradient, flat.top.converged) == (0.0, 0.0, 0.0, True)


def test_an_eigenvalue_that_rounding_hides_is_not_called_converged():
    model = programs.Quadratic([-1e6, *torch.linspace(0.0, 1.0, 100).tolist()], dtype=torch.float32)
    found = measure_curvature(model, [torch.zeros(1)]).top
    assert not found.converged
    assert abs(found.value - 1.0) <= found.residual


def test_where_the_gradient_is_zero_it_has_no_curvature():
    model = programs.Quadratic([1.0, 2.0, 3.0])
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    found = measure_curvature(model, [torch.zeros(4, dtype=torch.float64)])
    assert found.gradient is None and found.gradient_norm == 0.0


def test_too_few_products_are_told_as_such():
    model, batch = network("tanh", 0)
    found = measure_curvature(model, [batch], cross_entropy, tolerance=1e-6, max_iterations=3)
    assert not found.top.converged
    assert found.top.iterations == 3
    assert found.top.residual > 1e-6 * found.top.value


def test_pieces_give_the_curvature_of_the_whole_by_their_rows():
    model, batch = network("tanh", 3)
    pieces = [
        {name: rows[part] for name, rows in batch.items()} for part in (slice(10), slice(10, 40), slice(40, None))
    ]
    whole = measure_curvature(model, [batch], cross_entropy)
    parts = measure_curvature(model, pieces, cross_entropy)
    assert parts.top.value == pytest.approx(whole.top.value, rel=1e-4)
    assert parts.gradient == pytest.approx(whole.gradient, rel=1e-4)
    assert parts.examples == whole.examples == 64


def test_only_trainable_parameters_count():
    model, batch = network("tanh", 3)
    model[0].requires_grad_(False)
    rest = [*model[2].parameters(), *model[4].parameters()]
    exact = torch.linalg.eigvalsh(exact_hessian(model, batch, parameters=rest).double())[-1]
    assert measure_curvature(model, [batch], cross_entropy).top.value == pytest.approx(exact.item(), rel=0.01)


def test_batch_normalization_uses_the_batch_by_default_and_running_statistics_when_told():
    model, batch = network("convolutions", 0)
    train_mode = measure_curvature(model, [batch], cross_entropy)
    eval_mode = measure_curvature(model, [batch], cross_entropy, batch_norm="eval")
    assert (train_mode.batch_norm, eval_mode.batch_norm) == ("train", "eval")
    assert abs(train_mode.top.value - eval_mode.top.value) > 0.1 * train_mode.top.value


def tiny_gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config), {"input_ids": (tokens := torch.randint(0, 16, (12, 8))), "labels": tokens}


def test_a_transformer_with_dropout_and_fused_attention_has_the_hessian_of_its_loss():
    model, batch = tiny_gpt2()
    assert model.config._attn_implementation == "sdpa"
    found = measure_curvature(model, [batch], tolerance=1e-3)
    eager = GPT2LMHeadModel._from_config(model.config, attn_implementation="eager")
    eager.load_state_dict(model.state_dict())
    exact = torch.linalg.eigvalsh(exact_hessian(eager, batch, lambda network, rows: network(**rows).loss).double())
    assert found.method == "double_backward"
    assert found.top.value == pytest.approx(exact[-1].item(), rel=1e-3)
    differences = measure_curvature(model, [batch], tolerance=0.01, method="central_differences")
    assert differences.top.converged
    assert differences.top.value == pytest.approx(exact[-1].item(), rel=0.02)


class Adapted(nn.Module):
    """A frozen linear layer and two factors that are added to it."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(10, 5).requires_grad_(False)
        self.inner, self.outer = nn.Linear(10, 2, bias=False), nn.Linear(2, 5, bias=False)

    def forward(self, x):
        return self.base(x.tanh()) * 2.0 + self.outer(self.inner(x).sin())


class Mapped(nn.Module):
    """One function of a weight, mapped over the rows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 10))

    def forward(self, x):
        return torch.vmap(lambda row: (self.weight @ row).tanh() @ self.weight)(x)[:, :5]


def transposed():
    """Weights that lie column by column in memory, one of them twice in the network."""
    model = nn.Sequential(nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 5))
    model[0].weight = model[2].weight = nn.Parameter(torch.randn(10, 10).t() / 3.0)
    return model


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [perceptron, convolutional, transposed, Adapted, Mapped])
def test_half_precision_is_measured_as_the_same_numbers_in_single_precision_are(make, dtype, batches):
    torch.manual_seed(0)
    model = make().to(dtype)
    wide = make()
    wide.load_state_dict(model.state_dict())
    batch = examples(64 if make is convolutional else 10)
    pieces = [{name: rows[place::batches] for name, rows in batch.items()} for place in range(batches)]
    expected, found = (measure_curvature(one, pieces, cross_entropy) for one in (wide, model))
    assert found.method == "double_backward"
    assert found.top.value == pytest.approx(expected.top.value, rel=1e-5)
    assert found.gradient == pytest.approx(expected.gradient, rel=1e-5)


def test_a_model_in_bfloat16_is_measured_in_single_precision():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=16,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        num_labels=3,
    )
    model = BertForSequenceClassification(config).to(torch.bfloat16)
    batch = {"input_ids": torch.randint(0, 16, (12, 8)), "labels": torch.randint(0, 3, (12,))}
    narrow = measure_curvature(model, [batch], tolerance=1e-3)
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    wide = measure_curvature(copy.deepcopy(model).float(), [batch], tolerance=1e-3)
    assert narrow.top.value == pytest.approx(wide.top.value, rel=1e-4)


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps the precision of the first `Accelerator` of a process for all that follow."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_mixed_precision_of_the_trainer_is_taken_off(fresh_accelerate):
    model, batch = tiny_gpt2()
    plain = measure_curvature(copy.deepcopy(model), [batch], tolerance=1e-3)
    prepared = Accelerator(cpu=True, mixed_precision="bf16").prepare(model)
    with torch.autocast("cpu", torch.bfloat16):
        found = measure_curvature(prepared, [batch], tolerance=1e-3)
    assert found.top.value == pytest.approx(plain.top.value, rel=1e-5)
    assert prepared(**batch).logits.dtype == torch.float32  # its own wrapper is there again
    assert "forward" in prepared.__dict__


def test_curvlinops_finds_the_same_products_and_eigenvalue():
    curvlinops = pytest.importorskip("curvlinops")
    from scipy.sparse.linalg import eigsh

    model, batch = network("relu", 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        operator = curvlinops.HessianLinearOperator(
            model, nn.CrossEntropyLoss(), list(model.parameters()), [(batch["x"], batch["labels"])]
        )
        oracle = operator.to_scipy()
    objective = Objective(model, [batch], cross_entropy)
    with preserved(model), hessian(objective) as ours:
        vector = random_unit_like(objective.point(), seed=1)
        product = [torch.zeros_like(part) for part in vector]
        ours.add_product(vector, product)
    flat = torch.cat([part.reshape(-1) for part in vector]).numpy()
    expected = oracle @ flat
    assert torch.cat([part.reshape(-1) for part in product]).numpy() == pytest.approx(expected, rel=1e-3, abs=1e-6)
    top = eigsh(oracle, k=1, which="LA", return_eigenvectors=False)[0]
    assert measure_curvature(model, [batch], cross_entropy, tolerance=1e-3).top.value == pytest.approx(top, rel=1e-3)


@pytest.mark.parametrize("function", [OnceDifferentiable, SilentlyWrong])
def test_where_second_derivatives_cannot_be_trusted_differences_are_taken(function):
    batch = examples(10)
    exact = measure_curvature(sines(None), [batch], cross_entropy)
    assert exact.method == "double_backward"
    found = measure_curvature(sines(function), [batch], cross_entropy)
    assert found.method == "central_differences"
    assert found.top.converged
    assert found.top.value == pytest.approx(exact.top.value, rel=0.02)
    assert found.gradient == pytest.approx(exact.gradient, rel=0.02)


def with_margins(x):
    """Sines and a margin, whose kernel has a first derivative and no second one."""
    return x.sin() + nn.functional.multi_margin_loss(x, torch.zeros(len(x)).long(), reduction="none")[:, None]


@pytest.mark.parametrize("function", [OnceDifferentiable.apply, SilentlyWrong.apply, with_margins])
def test_a_later_batch_without_a_second_derivative_spoils_no_product(function):
    class SineOfAll(nn.Module):
        def forward(self, x):
            return function(x) if len(x) == 24 else x.sin()

    batch = examples(10)
    batches = [{name: rows[part] for name, rows in batch.items()} for part in (slice(40), slice(40, 64))]
    model = sines(None)
    model[1], model[3] = SineOfAll(), SineOfAll()
    expected, found = (
        measure_curvature(model, batches, cross_entropy, method=method, update=dict(model.named_parameters()))
        for method in ("central_differences", "auto")
    )
    assert found.method == "central_differences"
    assert found.top == expected.top
    assert (found.gradient, found.update) == (expected.gradient, expected.update)


class BiasOnly(nn.Module):
    """Layer normalization with a bias and no weight."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(20))

    def forward(self, x):
        return nn.functional.layer_norm(x, (20,), None, self.bias)


@pytest.mark.parametrize("place", [0, 1], ids=["weight normalization", "layer normalization"])
def test_second_derivatives_that_torch_gets_wrong_in_silence_are_not_used(place):
    model, batch = perceptron(), examples(10)
    train(model, batch, 5)
    model[place] = nn.utils.parametrizations.weight_norm(model[0]) if place == 0 else BiasOnly()
    found = measure_curvature(model, [batch], cross_entropy, tolerance=1e-3)
    assert found.method == "central_differences" and found.top.converged
    with pytest.raises(CurvatureError, match="is wrong"):
        measure_curvature(model, [batch], cross_entropy, method="double_backward")
    exact = differenced_hessian(model.double(), {"x": batch["x"].double(), "labels": batch["labels"]})
    assert found.top.value == pytest.approx(torch.linalg.eigvalsh(exact)[-1].item(), rel=0.02)


def differenced_hessian(model, batch, step=1e-5):
    """The whole Hessian from differences of gradients."""
    parameters = list(model.parameters())

    def gradient():
        return torch.cat([part.reshape(-1) for part in torch.autograd.grad(cross_entropy(model, batch), parameters)])

    rows = []
    for p in parameters:
        flat = p.detach().view(-1)
        for index in range(len(flat)):
            flat[index] += step
            above = gradient()
            flat[index] -= 2.0 * step
            rows.append((above - gradient()) / (2.0 * step))
            flat[index] += step
    hessian = torch.stack(rows)
    return (hessian + hessian.T) / 2.0


def test_a_missing_second_derivative_is_a_sentence_where_it_was_demanded():
    with pytest.raises(CurvatureError, match=r"no second derivative.*central_differences"):
        measure_curvature(sines(OnceDifferentiable), [examples(10)], cross_entropy, method="double_backward")


def test_differences_of_a_network_with_kinks_are_not_called_converged():
    model, batch = network("convolutions", 3)
    exact = measure_curvature(model, [batch], cross_entropy).top.value
    found = measure_curvature(model, [batch], cross_entropy, method="central_differences").top
    assert not found.converged or found.value == pytest.approx(exact, rel=0.05)


# --- Bad input ------------------------------------------------------------------------------------------------------


def unlabelled(model, batch):
    return {"logits": model(batch["x"])}


BAD_INPUT = {
    "frozen": (lambda m: m.requires_grad_(False), {}, "no trainable parameter"),
    "no labels": (None, {"compute_loss": unlabelled}, "no loss"),
    "nothing labelled": (None, {"batches": [{"labels": torch.full((4, 3), -100)}]}, "has a label"),
    "no examples": (None, {"batches": []}, "no examples"),
    "nan": (None, {"compute_loss": lambda m, b: cross_entropy(m, b) * math.nan}, "is nan"),
    "inf": (None, {"compute_loss": lambda m, b: cross_entropy(m, b) * math.inf}, "is inf"),
    "method": (None, {"method": "exact"}, "double_backward"),
    "batch_norm": (None, {"batch_norm": "off"}, "train or eval"),
    "tolerance": (None, {"tolerance": 0.0}, "tolerance=0.0"),
    "iterations": (None, {"max_iterations": 0}, "max_iterations=0"),
    "update": (None, {"update": {}}, "0.weight"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_sentence(case):
    change, options, message = BAD_INPUT[case]
    model = perceptron()
    if change:
        change(model)
    options = {"batches": [examples(10)], "compute_loss": cross_entropy, **options}
    with pytest.raises(CurvatureError) as error:
        measure_curvature(model, options.pop("batches"), options.pop("compute_loss"), **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_parameters_that_are_not_finite_are_told_by_their_loss():
    model = perceptron()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.raises(CurvatureError, match="is nan"):
        measure_curvature(model, [examples(10)], cross_entropy)


def test_products_add_up_and_are_symmetric():
    model, batch = network("deep", 3)
    objective = Objective(model, [batch], cross_entropy)
    with preserved(model), hessian(objective) as operator:
        first, second = (random_unit_like(objective.point(), seed) for seed in (1, 2))
        of_first, of_second = ([torch.zeros_like(part) for part in first] for _ in range(2))
        operator.add_product(first, of_first)
        operator.add_product(second, of_second)
        assert dot(second, of_first) == pytest.approx(dot(first, of_second), rel=1e-4)
        operator.add_product(first, of_first)
        assert dot(second, of_first) == pytest.approx(2.0 * dot(first, of_second), rel=1e-4)
        assert operator.products == 3
        assert top_eigenvalue(operator, seed=3).value == pytest.approx(top_eigenvalue(operator).value, rel=0.01)
