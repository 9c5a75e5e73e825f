"""Tiny models of many architectures, with random weights, and data that their Trainer takes."""

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, set_seed

from hf_critmom.tasks import CifarResNetConfig, CifarResNetForImageClassification

BODY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VISION = {**BODY, "image_size": 16, "patch_size": 8, "num_channels": 3, "num_labels": 3}
TEXT = {**BODY, "vocab_size": 32, "max_position_embeddings": 16, "num_key_value_heads": 2}
IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}

IMAGE_CLASSIFIERS: dict[str, dict[str, Any]] = {
    "ViT": VISION,
    "DeiT": VISION,
    "Beit": {**VISION, "use_relative_position_bias": True},
    "Dinov2": {**VISION, "mlp_ratio": 2},
    "Dinov2WithRegisters": {**VISION, "mlp_ratio": 2},
    "ViTMSN": VISION,
    "IJepa": VISION,
    "Swin": {
        "image_size": 16,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 4,
    },
    "ConvNext": {"hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2, "num_labels": 3},
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic", "num_labels": 3},
    "Segformer": {
        **{"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 8]},
        **{"num_attention_heads": [1, 1], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2]},
    },
}
"""Configurations by the stem of the class ``...ForImageClassification``."""

LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "GPT2": {"vocab_size": 32, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, **IDS},  # tied weights
    "Llama": {**TEXT, **IDS},
    "GPTNeoX": {**TEXT, **IDS},
    "Mixtral": {**TEXT, **IDS, "num_local_experts": 2},
    "Qwen2Moe": {**TEXT, **IDS, **EXPERTS, "shared_expert_intermediate_size": 8},
    "Qwen3Moe": {**TEXT, **IDS, **EXPERTS, "head_dim": 8},
    "Olmoe": {**TEXT, **IDS, "num_experts": 2, "num_experts_per_tok": 1},
    "GraniteMoe": {**TEXT, **IDS, "num_local_experts": 2, "num_experts_per_tok": 1},
}
"""Configurations by the stem of the class ``...ForCausalLM`` (``...LMHeadModel`` of GPT-2)."""

FAMILIES = [name for name in (*IMAGE_CLASSIFIERS, *LANGUAGE_MODELS) if hasattr(transformers, f"{name}Config")]
"""The architectures that the installed release of Transformers has."""


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A model of a family with weights drawn from a seed."""
    set_seed(seed)
    if family == "CifarResNet":
        return CifarResNetForImageClassification(CifarResNetConfig(width=4, num_labels=3))
    settings = IMAGE_CLASSIFIERS.get(family) or LANGUAGE_MODELS[family]
    config = getattr(transformers, f"{family}Config")(**settings)
    if family in IMAGE_CLASSIFIERS:
        config.num_labels = 3
        return getattr(transformers, f"{family}ForImageClassification")(config)
    return getattr(transformers, "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM")(config)


def tiny_data(family: str, examples: int = 8) -> list[dict[str, Any]]:
    """Training examples of a family: images of 16 by 16 and 3 classes, or rows of 8 of 32 tokens."""
    draws = torch.Generator().manual_seed(1)
    if family in LANGUAGE_MODELS:
        rows = torch.randint(2, 32, (examples, 8), generator=draws)
        return [{"input_ids": row, "labels": row} for row in rows]
    pixels = torch.randn(examples, 3, 16, 16, generator=draws)
    return [{"pixel_values": image, "labels": index % 3} for index, image in enumerate(pixels)]


class Line(torch.nn.Module):
    """A linear regression of two inputs, the least that a Trainer trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layer(x) - labels).pow(2).mean()}
