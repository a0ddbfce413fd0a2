"""RAD-DINO's file and DINOv2's as transformers stores them: names, shapes and the files beside them."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.platform.models.transformers_files import CONFIG, published, write
from vetdino.platform.core.errors import CheckpointError, ConfigError
from vetdino.platform.models.loading import load
from vetdino.platform.models.source import SourceOptions
from vetdino.platform.models.transformers_format import timm_tensors, with_facts


def tokens_by_the_paper(state: dict[str, Tensor], color_B3SS: Tensor) -> Tensor:
    """The network written out with the names of its file: all tokens after the last norm, (B, L, D)."""
    heads, eps = CONFIG["num_attention_heads"], CONFIG["layer_norm_eps"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        spread = x.var(-1, keepdim=True, correction=0)
        return (x - x.mean(-1, keepdim=True)) / (spread + eps).sqrt() * state[f"{name}.weight"] + state[
            f"{name}.bias"
        ]

    kernel = "embeddings.patch_embeddings.projection"
    patches = F.conv2d(color_B3SS, state[f"{kernel}.weight"], state[f"{kernel}.bias"], stride=14)
    x = torch.cat(
        [state["embeddings.cls_token"].expand(len(color_B3SS), 1, -1), patches.flatten(2).transpose(1, 2)], 1
    )
    x = x + state["embeddings.position_embeddings"]
    if "embeddings.register_tokens" in state:
        registers = state["embeddings.register_tokens"].expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], registers, x[:, 1:]], 1)
    for number in range(CONFIG["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        h = norm(x, f"{layer}.norm1")
        query, key, value = (
            linear(h, f"{layer}.attention.attention.{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        x = x + state[f"{layer}.layer_scale1.lambda1"] * linear(mixed, f"{layer}.attention.output.dense")
        h = norm(x, f"{layer}.norm2")
        if f"{layer}.mlp.weights_in.weight" in state:
            gate, plain = linear(h, f"{layer}.mlp.weights_in").chunk(2, -1)
            h = linear(F.silu(gate) * plain, f"{layer}.mlp.weights_out")
        else:
            h = linear(F.gelu(linear(h, f"{layer}.mlp.fc1")), f"{layer}.mlp.fc2")
        x = x + state[f"{layer}.layer_scale2.lambda1"] * h
    return norm(x, "layernorm")


@pytest.mark.parametrize(
    "kind", [{}, {"registers": 4}, {"gated": True}], ids=["rad-dino", "registers", "giant"]
)
def test_a_file_of_transformers_gives_the_tokens_of_its_network_with_its_own_mean_and_std(
    kind, tmp_path, caplog
):
    state = published(**kind)
    backbone = load(write(tmp_path / "rad-dino", state))
    card = backbone.card
    assert (card.mean, card.std, card.config.heads, card.config.eps) == (0.5307, 0.2583, 4, 1e-4)
    assert (backbone.side, backbone.patch, backbone.width) == (56, 14, 48)
    assert "taken as" not in caplog.text  # nothing had to be guessed
    gray = torch.rand(2, 1, 56, 56, generator=torch.Generator().manual_seed(1))
    color = (gray.expand(-1, 3, -1, -1) - 0.5307) / 0.2583
    expected = tokens_by_the_paper(state, color)
    tokens = backbone.tokens((gray - card.mean) / card.std)
    prefix = 1 + kind.get("registers", 0)
    torch.testing.assert_close(tokens.cls, expected[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokens.patches, expected[:, prefix:], atol=1e-4, rtol=1e-4)
    assert torch.equal(backbone.mask_token, state["embeddings.mask_token"][0])


def test_a_network_below_a_classifiers_prefix_is_the_same(tmp_path):
    state = published()
    wrapped = {f"dinov2.{name}": value for name, value in state.items()} | {
        "classifier.weight": torch.zeros(2, 96)
    }
    one, two = load(write(tmp_path / "a", state)), load(write(tmp_path / "b", wrapped))
    assert one.card.digest == two.card.digest


def test_what_a_person_says_outweighs_the_files_beside_the_weights(tmp_path):
    file = write(tmp_path / "a", published())
    card = load(f"{file}#heads=2,mean=0.5,std=0.25").card
    assert (card.config.heads, card.mean, card.std, card.config.eps) == (2, 0.5, 0.25, 1e-4)


def test_without_its_files_a_small_one_is_refused_as_any_whose_heads_nothing_tells(tmp_path):
    file = write(tmp_path / "a", published())
    (file.parent / "config.json").unlink()
    with pytest.raises(ConfigError, match="heads"):
        load(file)


def test_other_files_stay_as_they_are_and_half_a_block_is_refused(tmp_path):
    assert timm_tensors({"a": torch.zeros(1)}).keys() == {"a"}
    state = published()
    del state["encoder.layer.1.attention.attention.key.weight"]
    with pytest.raises(CheckpointError, match=r"layer\.1\.attention\.attention\.key\.weight is missing"):
        load(write(tmp_path / "a", state))


def test_damaged_facts_are_refused_and_those_of_another_network_ignored(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet", "num_attention_heads": 3}))
    assert with_facts(tmp_path / "model.safetensors", SourceOptions()) == SourceOptions()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2", "num_attention_heads": "many"}))
    with pytest.raises(CheckpointError, match="damaged"):
        with_facts(tmp_path / "model.safetensors", SourceOptions())
