"""Claims about the batches that curvature is measured on: tokens, rows and odd forms count as in training."""

import pytest
import torch
from helpers.curvature_programs import cross_entropy, exact_hessian, examples, perceptron
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hf_critmom.curvature import CurvatureError, measure_curvature, sample_noise
from hf_critmom.curvature.noise import _divided
from hf_critmom.curvature.objective import count_rows

SHAPE = {"vocab_size": 12, "bos_token_id": 0, "eos_token_id": 0}


def llama():
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 8}
    return LlamaForCausalLM(LlamaConfig(**SHAPE, **layers, hidden_size=4, intermediate_size=4, pad_token_id=0))


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**SHAPE, n_positions=8, n_embd=4, n_layer=1, n_head=1))


def padded(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 12, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.where(mask.bool(), -100)}


def rows_of(batch, *indices):
    return {name: value[list(indices)] for name, value in batch.items()}


def top(model, batches, *given, **options):
    return measure_curvature(model, batches, *given, tolerance=1e-4, **options).top.value


def test_tied_embeddings_count_once():
    model, batch = gpt2(), padded([6, 4, 5])
    assert model.lm_head.weight is model.transformer.wte.weight
    model.set_attn_implementation("eager")
    exact = exact_hessian(model, batch, lambda network, given: network(**given).loss)
    assert top(model, [batch]) == pytest.approx(torch.linalg.eigvalsh(exact)[-1].item(), rel=1e-3)


def test_a_causal_language_model_in_pieces_is_weighted_by_the_tokens_that_it_predicts():
    model, batch = llama(), padded([8, 2, 2, 3])
    assert top(model, [rows_of(batch, 0), rows_of(batch, 1, 2, 3)]) == pytest.approx(top(model, [batch]), rel=1e-3)


@pytest.mark.parametrize("noise", [False, True])
def test_batches_without_a_labelled_token_are_left_out(noise):
    model, batch = llama(), padded([8, 6, 5, 7])
    batch["labels"][1] = -100
    pieces = [rows_of(batch, index) for index in range(4)]
    if noise:
        samples = [sample_noise(model, given, rows=1) for given in (pieces, [pieces[0], *pieces[2:]])]
        assert samples[0] == samples[1]
    else:
        assert top(model, pieces) == pytest.approx(top(model, [batch]), rel=1e-3)


def test_rows_without_a_label_do_not_count_either():
    model, batch = perceptron(), examples(10)
    batch["labels"][:40] = -100
    batch["labels"][60] = -100
    pieces = [rows_of(batch, *range(start, start + 16)) for start in (0, 16, 32, 48)]
    assert top(model, pieces, cross_entropy) == pytest.approx(top(model, [batch], cross_entropy), rel=1e-3)


class Bag(nn.Module):
    def __init__(self, sparse):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(12, 4, sparse=sparse)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.words(x).mean(1).tanh())


def test_sparse_gradients_are_those_of_dense_embeddings():
    batch = {"x": padded([8] * 16)["input_ids"], "labels": torch.arange(16) % 5}
    dense, sparse = (Bag(sparse) for sparse in (False, True))
    assert top(sparse, [batch], cross_entropy) == pytest.approx(top(dense, [batch], cross_entropy), rel=1e-6)
    found = [sample_noise(model, [batch], cross_entropy, rows=2).trace for model in (dense, sparse)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("place", [lambda model: model, lambda model: model[0]], ids=["whole", "layer"])
def test_a_model_that_is_compiled_in_place_has_exact_second_derivatives(place):
    batch, plain, compiled = examples(10), perceptron(), perceptron()
    place(compiled).compile(backend="aot_eager")
    compiled(batch["x"])
    measured = measure_curvature(compiled, [batch], cross_entropy, tolerance=1e-4)
    assert measured.method == "double_backward"
    assert measured.top.value == top(plain, [batch], cross_entropy)


class Packed(nn.Parameter):
    """A frozen weight that is more than its numbers, as those of quantized layers are."""


class PackedLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = Packed(torch.arange(200).reshape(20, 10).to(torch.int8), requires_grad=False)
        self.weight.scale = 0.005

    def forward(self, x):
        return nn.functional.linear(x, self.weight.scale * self.weight)


def test_frozen_weights_of_quantized_layers_stay_what_they_are():
    model, batch = perceptron(), examples(10)
    model[0] = PackedLinear()
    exact = exact_hessian(nn.Sequential(*model[1:]), {**batch, "x": model[0](batch["x"]).detach()})
    assert top(model, [batch], cross_entropy) == pytest.approx(torch.linalg.eigvalsh(exact)[-1].item(), rel=1e-3)


def test_complex_parameters_are_refused_in_a_sentence():
    model = perceptron()
    model.register_parameter("phase", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))
    with pytest.raises(CurvatureError, match="complex parameters"):
        measure_curvature(model, [examples(10)], cross_entropy)


# --- Forms of batches -----------------------------------------------------------------------------------------------


def test_batches_may_come_from_a_generator():
    model, batch = perceptron(), examples(10)
    groups = {"first": list(model[0].parameters())}
    found = measure_curvature(model, (given for given in [batch]), cross_entropy, groups=groups)
    assert found.groups == measure_curvature(model, [batch], cross_entropy, groups=groups).groups
    assert sample_noise(model, (given for given in [batch]), cross_entropy).batches == 16


@pytest.mark.parametrize("measure", [measure_curvature, sample_noise])
def test_one_batch_in_place_of_a_list_is_a_sentence(measure):
    with pytest.raises(CurvatureError, match=r"pass a list of batches, such as \[batch\]"):
        measure(perceptron(), examples(10), cross_entropy)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"tolerance": "x"}, "tolerance='x'"),
        ({"batches": None}, "batches=None"),
        ({"groups": ["0"]}, r"groups=\['0'\]"),
        ({"weighting": "rows"}, "choose items or batches"),
        ({"update": {"0.weight": torch.ones(3)}}, r"0\.weight has shape \(3,\), and the parameter \(20, 10\)"),
        ({"update": [torch.ones(3)]}, "by name"),
    ],
)
def test_arguments_that_are_not_valid_are_a_sentence(arguments, word):
    model = perceptron()
    if isinstance(arguments.get("update"), dict):
        arguments = {"update": {**dict(model.named_parameters()), **arguments["update"]}}
    with pytest.raises(CurvatureError, match=word):
        measure_curvature(model, **{"batches": [examples(10)], "compute_loss": cross_entropy, **arguments})


def test_rows_are_counted_by_labels_and_never_by_a_number():
    assert count_rows({"temperature": torch.tensor(2.0), "x": torch.zeros(3, 2)}) == 3
    assert count_rows({"patches": torch.zeros(12, 2), "labels": torch.zeros(4)}) == 4
    assert count_rows({"images": torch.zeros(12, 2), "labels": [{"boxes": torch.zeros(7, 4)}] * 2}) == 2
    assert count_rows((torch.zeros(5, 2), torch.zeros(5))) == 5
    assert count_rows("text") == 1


def test_labels_in_lists_are_divided_with_their_images():
    boxes = [{"boxes": torch.full((4, 4), float(index)), "label": torch.arange(4)} for index in range(4)]
    first, second = _divided({"images": torch.arange(4), "labels": boxes, "scale": torch.tensor(1.0)}, 2)
    assert first["images"].tolist() == [0, 1] and second["images"].tolist() == [2, 3]
    assert [len(one["boxes"]) for one in second["labels"]] == [4, 4]
    assert second["labels"][0]["boxes"][0, 0] == 2.0
    assert [part.tolist() for part in _divided((torch.arange(2), torch.arange(2)), 1)[1]] == [[1], [1]]
