"""Tests of the unembedding: found by structure, and exactly what the model does to its last hidden state."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from kedit.internals.hooks import Some, before, intervene, record
from kedit.internals.sites import Site, decoder_path
from kedit.internals.unembedding import Unembedding, UnembeddingError, left_out, norm_behind
from kedit.locate.contribution import Contribution
from kedit.locate.locator import Locator, Stage
from kedit.locate.readout import Readout
from kedit.locate.selection import TopK
from kedit.locate.target import Target
from kedit.models.planted import Planted
from kedit.models.tiny.families import tiny as tiny_of
from kedit.samples import Concept, TextPair, TextSample
from tests.tiny import SIZES, seeded
from tests.tiny_families import mixtral, qwen2_moe

VOCAB, WIDTH = 40, 16


def llama() -> nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
        )
    )


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=32))


def opt() -> nn.Module:
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCAB, hidden_size=WIDTH, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2,
            word_embed_proj_dim=WIDTH, max_position_embeddings=32,
        )
    )  # fmt: skip


def gemma2() -> nn.Module:
    """A model whose norm stores its scale less one, and which softens its logits."""
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, final_logit_softcapping=None,
        )
    )  # fmt: skip


MODELS = {"llama": (llama, False), "gpt2": (gpt2, True), "opt": (opt, True), "gemma2": (gemma2, False)}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, bool]:
    build, centers = MODELS[request.param]
    torch.manual_seed(0)
    model = build().eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if "norm" in name or "ln_f" in name:
            weight.add_(torch.randn_like(weight) * 0.3)
    return model, centers


def before_norm(model: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the residual stream in front of the final norm, and the logits, at the last position."""
    seen: list[Tensor] = []
    norm = Unembedding.of(model).norm
    assert norm is not None
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = model(tokens).logits
    handle.remove()
    return seen[0][0, -1], logits[0, -1]


def test_the_residual_stream_gives_the_models_own_logits(case: tuple[nn.Module, bool]) -> None:
    model, _ = case
    stream, logits = before_norm(model, torch.tensor([[3, 8, 5, 13]]))
    torch.testing.assert_close(Unembedding.of(model).logits(stream[None])[0], logits, atol=1e-5, rtol=1e-5)


def test_raw_logits_are_the_output_matrix_alone(case: tuple[nn.Module, bool]) -> None:
    model, _ = case
    vector = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(1))
    expected = vector @ model.get_output_embeddings().weight.T
    torch.testing.assert_close(Unembedding.of(model).logits(vector, raw=True), expected)


def test_directions_with_gamma_give_the_logits_up_to_the_length_of_the_stream(case: tuple[nn.Module, bool]) -> None:
    """logit_c = direction_c . h / |h| + bias, where |h| is what the norm divides by."""
    model, centers = case
    found = Unembedding.of(model)
    assert found.centered == centers
    stream, logits = before_norm(model, torch.tensor([[3, 8, 5, 13]]))
    spread = stream.var(unbiased=False) if centers else stream.pow(2).mean()
    bias = getattr(found.norm, "bias", None)
    offset = 0.0 if bias is None else found.weight @ bias
    expected = found.directions(range(VOCAB)) @ stream / (spread + 1e-5).sqrt() + offset
    torch.testing.assert_close(expected, logits, atol=2e-3, rtol=2e-3)


def test_directions_without_the_norm_are_rows_of_the_output_matrix(case: tuple[nn.Module, bool]) -> None:
    model, _ = case
    expected = model.get_output_embeddings().weight[[4, 7]]
    assert torch.equal(Unembedding.of(model).directions([4, 7], "none"), expected)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="`norm` is one of none, gamma, got 'frozen'"):
        Unembedding.of(llama()).directions([0], "frozen")  # type: ignore[arg-type]


def test_a_model_without_an_output_matrix_is_refused() -> None:
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    with pytest.raises(UnembeddingError, match="BertModel has no output matrix over its words"):
        Unembedding.of(BertModel(config))
    assert Unembedding.of(BertForMaskedLM(config)).weight.shape == (VOCAB, WIDTH)


def test_in_an_mllm_it_is_the_language_models(planted: Planted) -> None:
    module = planted.model.module
    found = Unembedding.of(module)
    assert found.weight is module.lm_head.weight
    assert found.norm is module.get_submodule(decoder_path(module)).norm


@pytest.mark.parametrize("family", ["granite", "falcon", "minicpm"])
def test_what_a_model_multiplies_behind_its_blocks_is_part_of_what_neurons_write(family: str) -> None:
    """Zeroing a neuron takes its readout from the stream, and no more."""
    module = seeded({"granite": granite, "falcon": falcon, "minicpm": minicpm}[family])
    site, ids, streams = Site.of(module, "mid"), torch.tensor([[5, 6, 7]]), []
    layer, neuron = max(site.blocks), 3

    def stream(edits: dict[int, Any]) -> dict[int, torch.Tensor]:
        norm = "model.final_layernorm" if family == "falcon" else "model.norm"
        seen = before(module, norm, lambda args, kwargs: streams.append(args[0].detach()))
        with seen, record(module, site) as activations, intervene(module, site, edits):
            module(input_ids=ids)
        return activations

    activation = stream({})[layer][0, :, neuron]
    stream({layer: Some(torch.tensor([neuron]), torch.zeros_like)})
    written = Readout(module, site, layer, Unembedding.of(module)).values[neuron]
    torch.testing.assert_close(streams[0][0] - streams[1][0], activation[:, None] * written)


def granite() -> nn.Module:
    return GraniteForCausalLM(GraniteConfig(**SIZES, num_key_value_heads=2, residual_multiplier=0.22))


def falcon() -> nn.Module:
    mamba = {"mamba_d_ssm": 16, "mamba_n_heads": 4, "mamba_d_head": 4, "mamba_d_state": 4, "mamba_n_groups": 1}
    factors = {"mlp_multipliers": [1.0, 0.25], "head_dim": 8}
    config = transformers.FalconH1Config(**SIZES, **mamba, **factors, num_key_value_heads=2)
    return transformers.FalconH1ForCausalLM(config)


def minicpm() -> nn.Module:
    if not hasattr(transformers, "MiniCPM3Config"):
        pytest.skip("this transformers has no MiniCPM3")
    heads = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4}
    config = transformers.MiniCPM3Config(**SIZES, **heads, num_key_value_heads=2, scale_depth=1.4)
    return transformers.MiniCPM3ForCausalLM(config)


@pytest.mark.parametrize(("family", "norm"), [("gemma2", "post_feedforward_layernorm"), ("llama", None)])
def test_a_norm_behind_the_blocks_is_told_where_value_vectors_are_read(
    family: str, norm: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_of(family)
    assert norm_behind(model.module, model.site("mid").block(1).output) == norm
    pair = TextPair(TextSample("one", "The sky is", counterfactual="The hay is"), Concept("blue"))
    locator = Locator({"only": Stage(Contribution(), TopK(1))}, target=Target(on_missing="force"))
    locator.score(model, [pair])
    assert ("passes a norm (`post_feedforward_layernorm`)" in caplog.text) == (norm is not None)


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (mixtral, ["the weights by which tokens are routed to experts"]),
        (qwen2_moe, ["the weights by which tokens are routed to experts", "the gate of the shared expert"]),
        (llama, []),
    ],
)
def test_what_weighs_experts_is_told_where_value_vectors_are_read(build: Any, found: list[str]) -> None:
    module = build()
    assert left_out(module, Site.of(module, "mid").blocks.values()) == found
