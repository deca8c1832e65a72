"""Sites are found by structure in models of many families, and mean the same in each."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import tiny
import tiny_families
import torch
from torch import Tensor, nn

from kedit.internals.hooks import intervene, record
from kedit.internals.sites import Site, SiteError, decoder_path, embedding_path, feed_forwards
from kedit.neurons import NeuronId

GATED = {"llama": tiny.llama, "qwen2": tiny.qwen2, "gemma2": tiny.gemma2, "phi3": tiny.phi3, "llava": tiny.llava}
UNGATED = {
    "gpt2": tiny.gpt2,
    "gpt2 with square weights": lambda: tiny.gpt2(tiny.WIDTH),
    "opt": tiny.opt,
    "gpt_neox": tiny.gpt_neox,
    "blip2": tiny.blip2,
    "plain": tiny.plain,
    "plain with square weights": lambda: tiny.plain(tiny.WIDTH),
}
FAMILIES: dict[str, Callable[[], Any]] = GATED | UNGATED
OUTPUTS = {
    "llama": "model.layers.1.mlp.down_proj",
    "qwen2": "model.layers.1.mlp.down_proj",
    "gemma2": "model.layers.1.mlp.down_proj",
    "phi3": "model.layers.1.mlp.down_proj",
    "llava": "model.language_model.layers.1.mlp.down_proj",
    "gpt2": "transformer.h.1.mlp.c_proj",
    "opt": "model.decoder.layers.1.fc2",
    "gpt_neox": "gpt_neox.layers.1.mlp.dense_4h_to_h",
    "blip2": "language_model.model.decoder.layers.1.fc2",
    "plain": "blocks.1.2",
}


@cache
def built(family: str) -> Any:
    return FAMILIES[family]()


@torch.no_grad()
def logits(family: str) -> Tensor:
    """Return what the family's model says to a fixed input: two rows of three tokens, with pictures where it sees."""
    module = built(family)
    if family.startswith("plain"):
        return module(torch.randn(2, 3, tiny.WIDTH, generator=torch.Generator().manual_seed(1)))
    if family in ("llava", "blip2"):
        return module(**tiny.prompt([5, 6, 7], [8, 9, 10])).logits
    return module(input_ids=torch.tensor([[1, 5, 6], [1, 7, 8]])).logits


def output_of(module: nn.Module, site: Site, layer: int) -> nn.Module:
    return module.get_submodule(site.block(layer).output)


@pytest.mark.parametrize("family", OUTPUTS)
def test_each_family_has_its_feed_forward_blocks_found_in_the_language_model(family: str) -> None:
    site = Site.of(built(family))
    assert site.block(1).output == OUTPUTS[family]
    assert site.widths == dict.fromkeys(range(tiny.LAYERS), tiny.NEURONS)
    assert site.n_neurons == tiny.LAYERS * tiny.NEURONS


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_neurons_times_the_output_weight_are_what_the_block_writes(family: str) -> None:
    module = built(family)
    site = Site.of(module)
    written: dict[int, Tensor] = {}
    handles = [
        output_of(module, site, layer).register_forward_hook(lambda one, i, out, n=layer: written.update({n: out}))
        for layer in site.blocks
    ]
    with record(module, site) as neurons:
        logits(family)
    for handle in handles:
        handle.remove()
    for layer, activation in neurons.items():
        output = output_of(module, site, layer)
        values = torch.stack([site.value_vector(module, NeuronId(layer, i)) for i in range(site.widths[layer])])
        bias = 0 if output.bias is None else output.bias
        torch.testing.assert_close(activation @ values + bias, written[layer], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_silencing_a_neuron_by_a_hook_equals_zeroing_its_part_of_the_weight_bit_for_bit(family: str) -> None:
    module, silent = built(family), [1, 7]
    site = Site.of(module)
    keep = torch.ones(site.widths[0])
    keep[silent] = 0.0
    before = logits(family)
    with intervene(module, site, {0: lambda activation: activation * keep}):
        hooked = logits(family)
    values = [site.value_vector(module, NeuronId(0, index)) for index in silent]
    kept = [value.clone() for value in values]
    for value in values:
        value.zero_()
    written = logits(family)
    for value, old in zip(values, kept, strict=True):
        value.copy_(old)
    assert torch.equal(hooked, written)
    assert not torch.equal(hooked, before)
    assert torch.equal(logits(family), before)


@pytest.mark.parametrize("family", UNGATED)
def test_the_activation_functions_output_is_the_mid_site_in_an_ungated_block(family: str) -> None:
    module = built(family)
    with record(module, Site.of(module, "mid")) as mid, record(module, Site.of(module, "act")) as act:
        logits(family)
    assert mid.keys() == act.keys()
    for layer in mid:
        assert torch.equal(mid[layer].flatten(0, -2), act[layer].flatten(0, -2))


@pytest.mark.parametrize("family", GATED)
def test_in_a_gated_block_the_activation_differs_from_mid_but_silencing_it_is_the_same(family: str) -> None:
    module = built(family)
    keep = torch.ones(tiny.NEURONS)
    keep[[0, 3, 5]] = 0.0
    said = {}
    for name in ("mid", "act"):
        site = Site.of(module, name)
        with record(module, site) as seen:
            logits(family)
        with intervene(module, site, {1: lambda activation: activation * keep}):
            said[name] = (seen[1], logits(family))
    assert not torch.allclose(said["mid"][0], said["act"][0])
    assert torch.equal(said["mid"][1], said["act"][1])


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "plain"])
def test_the_pre_site_is_what_the_activation_function_is_given(family: str) -> None:
    module = built(family)
    site = Site.of(module, "pre")
    function = module.get_submodule(site.module_path(0))
    with record(module, site) as pre, record(module, Site.of(module, "act")) as act:
        logits(family)
    assert torch.equal(function(pre[0]), act[0])
    with intervene(module, site, {0: torch.zeros_like}), record(module, Site.of(module, "act")) as act:
        logits(family)
    assert torch.equal(act[0], function(torch.zeros_like(act[0])))


def test_the_vision_tower_of_the_same_shape_is_not_mistaken_for_the_language_model() -> None:
    module = built("llava")
    assert all(block.output.startswith("model.language_model.") for block in feed_forwards(module))
    assert decoder_path(module) == "model.language_model"
    assert embedding_path(module) == "model.language_model.embed_tokens"


def test_attention_of_the_same_width_as_the_feed_forward_block_is_left_out() -> None:
    module = tiny.llama(intermediate_size=tiny.WIDTH)
    assert [block.output for block in feed_forwards(module)] == [f"model.layers.{n}.mlp.down_proj" for n in (0, 1)]


def test_a_model_inside_a_module_of_the_users_is_found_by_its_embedding() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.critics = nn.ModuleList(nn.Linear(3, 3) for _ in range(9))
            self.speaker = built("llama")

    assert Site.of(Wrapper()).block(0).output == "speaker.model.layers.0.mlp.down_proj"


def test_the_place_of_the_neurons_is_a_module_path_for_each_site() -> None:
    module = built("llama")
    assert Site.of(module, "mid").module_path(1) == "model.layers.1.mlp.down_proj"
    assert Site.of(module, "act").module_path(1) == "model.layers.1.mlp.act_fn"
    assert Site.of(module, "pre").module_path(1) == "model.layers.1.mlp.act_fn"


def test_an_unknown_site_is_named_with_the_known_ones() -> None:
    with pytest.raises(SiteError, match="no site `middle`; a site is `mid`, `act` or `pre`"):
        Site.of(built("llama"), "middle")  # type: ignore[arg-type]


def test_a_missing_layer_is_named_with_the_layers_there_are() -> None:
    site = Site.of(built("llama"))
    with pytest.raises(SiteError, match="no layer 2 with neurons; the model has layers 0 to 1"):
        site.block(2)
    gapped = Site("mid", {layer: block for layer, block in enumerate((*site.blocks.values(), *site.blocks.values()))
                          if layer != 1})  # fmt: skip
    with pytest.raises(SiteError, match=r"no layer 1 with neurons; the model has layers \[0, 2, 3\]"):
        gapped.module_path(1)


@pytest.mark.parametrize("index", [-1, tiny.NEURONS])
def test_a_value_vector_of_a_neuron_that_is_not_there_is_refused(index: int) -> None:
    module = built("llama")
    with pytest.raises(SiteError, match=rf"no neuron {index} in layer 1, which has {tiny.NEURONS}"):
        Site.of(module).value_vector(module, NeuronId(1, index))


def test_models_without_blocks_or_without_feed_forward_blocks_are_refused_by_name() -> None:
    with pytest.raises(SiteError, match="Linear has no stack of blocks"):
        Site.of(nn.Linear(2, 2))
    narrow = nn.Module()
    narrow.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Dropout()])
    with pytest.raises(SiteError, match="no feed-forward block in `blocks` of Module: 2 blocks searched"):
        Site.of(narrow)


def block(activation: nn.Module | None) -> nn.Module:
    """Return a feed-forward block with its activation beside it, or inline."""
    one = nn.Module()
    one.norm, one.up, one.down = nn.LayerNorm(4), nn.Linear(4, 6), nn.Linear(6, 4)
    if activation is not None:
        one.act = activation
    return one


def test_a_block_whose_activation_is_inline_has_mid_only() -> None:
    module = nn.Module()
    module.blocks = nn.ModuleList([block(None), block(None)])
    assert Site.of(module).n_neurons == 12
    with pytest.raises(SiteError, match=r"site `act` needs an activation module, and `blocks\.0\.down` has none"):
        Site.of(module, "act")


def test_layers_that_share_a_module_are_refused_since_their_neurons_cannot_be_told_apart() -> None:
    module, shared = nn.Module(), nn.ReLU()
    module.blocks = nn.ModuleList([block(shared), block(shared)])
    assert Site.of(module).n_neurons == 12
    with pytest.raises(SiteError, match=r"layers 0 and 1 share the module `blocks\.1\.act`.*; use `mid`"):
        Site.of(module, "act")
    one = block(None)
    module.blocks = nn.ModuleList([one, one])
    with pytest.raises(SiteError, match=r"share the module `blocks\.1\.down`"):
        Site.of(module)


# --- what structure has to see through


@pytest.mark.parametrize("family", ["gptj", "falcon", "bert"])
def test_older_families_are_found_and_silenced_bit_for_bit(family: str) -> None:
    module = getattr(tiny_families, family)()
    site, ids = Site.of(module), torch.tensor([[1, 5, 6], [1, 7, 8]])
    assert site.widths == dict.fromkeys(range(tiny.LAYERS), tiny.NEURONS)
    keep = torch.ones(tiny.NEURONS)
    keep[7] = 0.0
    with torch.no_grad():
        before = module(input_ids=ids).logits
        with intervene(module, site, {0: lambda activation: activation * keep}):
            hooked = module(input_ids=ids).logits
        site.value_vector(module, NeuronId(0, 7)).zero_()
        assert torch.equal(module(input_ids=ids).logits, hooked) and not torch.equal(hooked, before)


class Packed(nn.Module):
    """A linear map whose weight is not a matrix of numbers, as quantization leaves it."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.in_features, self.out_features = n_in, n_out
        self.qweight = nn.Parameter(torch.zeros(n_in * n_out // 8, dtype=torch.int32), requires_grad=False)


def test_packed_weights_are_found_by_their_sizes_and_their_values_are_refused() -> None:
    one, module = nn.Module(), nn.Module()
    one.norm, one.up, one.act, one.down = nn.LayerNorm(4), Packed(4, 8), nn.ReLU(), Packed(8, 4)
    module.blocks = nn.ModuleList([one])
    site = Site.of(module)
    assert site.block(0).output == "blocks.0.down" and site.widths == {0: 8}
    with pytest.raises(SiteError, match=r"the weight of `blocks\.0\.down` \(Packed\) is packed or quantized"):
        site.value_matrix(module, 0)


def test_a_part_in_eight_bits_has_neurons_and_no_readable_weight() -> None:
    module = tiny.plain()
    output = module.blocks[0][2]
    output.weight = nn.Parameter(output.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(SiteError, match="is packed or quantized: what its neurons write cannot be read"):
        Site.of(module).value_vector(module, NeuronId(0, 0))


def test_a_norm_inside_the_feed_forward_block_is_not_taken_for_the_residual_stream() -> None:
    one, module = nn.Module(), nn.Module()
    one.mlp = nn.Module()
    one.mlp.up, one.mlp.act, one.mlp.inner_norm, one.mlp.down = (
        nn.Linear(4, 6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 4),
    )  # fmt: skip
    one.input_norm, one.post_attention_norm = nn.LayerNorm(4), nn.LayerNorm(4)
    module.blocks = nn.ModuleList([one])
    assert Site.of(module).block(0).output == "blocks.0.mlp.down"


def test_gates_beside_a_block_are_no_neurons_where_a_block_is_named() -> None:
    one, module = nn.Module(), nn.Module()
    one.norm, one.mlp = nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
    one.side_gate, one.side = nn.Linear(4, 3), nn.Linear(3, 4)
    module.blocks = nn.ModuleList([one])
    assert [block.output for block in feed_forwards(module)] == ["blocks.0.mlp.2"]


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        (
            "IdeficsForVisionText2Text",
            {"model.layers.0.mlp.down_proj", "model.gated_cross_attn_layers.0.mlp.down_proj"},
        ),
        (
            "BltForCausalLM",
            {
                f"model.{part}.layers.0.mlp.down_proj"
                for part in ("local_encoder", "global_transformer", "local_decoder")
            },
        ),
        ("SeedOssForCausalLM", {"model.layers.0.mlp.down_proj"}),
        ("BitNetForCausalLM", {"model.layers.0.mlp.down_proj"}),
    ],
)
def test_families_that_names_would_mislead_are_found_whole(name: str, outputs: set[str]) -> None:
    import transformers

    built_for = getattr(transformers, name)
    with torch.device("meta"):
        module = built_for(built_for.config_class())
    assert outputs <= {block.output for block in feed_forwards(module)}
