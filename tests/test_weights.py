"""A weight is what its module multiplies with: inside an adapter, parametrized, tied, offloaded or quantized."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import tiny_families
import torch
from accelerate import cpu_offload
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm

from kedit.edit.edit import Edit
from kedit.edit.operators import Scale, Zero
from kedit.inspection.decode import decode
from kedit.internals.hooks import record
from kedit.internals.sites import Site, SiteError
from kedit.internals.unembedding import Unembedding
from kedit.internals.weights import WeightError, features_of, weight_of
from kedit.locate.contribution import Contribution
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.nam import NAM
from kedit.locate.selection import TopK
from kedit.locate.target import Target
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import wrap
from kedit.models.planted import STAR_CONCEPT, picture, without
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronId, NeuronSet

PAIRS = [without(picture(f"star {place}", (place,)), STAR_CONCEPT) for place in (5, 9)]
SOME = NeuronSet(tuple(NeuronId(layer, index) for layer in (0, 2) for index in (1, 7, 12)))
SCORERS = {
    "act_unembed": Contribution(norm="gamma"), "pan_multimodal": Contribution(), "nam": NAM(), "gradcam": GradCAM(),
}  # fmt: skip


class LowRank(nn.Module):
    """Around a linear map, as PEFT's LoRA is; it drops out in training mode."""

    def __init__(self, base_layer: nn.Module, scaling: float = 2.0, rank: int = 3) -> None:
        super().__init__()
        n_in, n_out = features_of(base_layer) or (0, 0)
        self.base_layer, self.scaling, self.dropout = base_layer, scaling, nn.Dropout(0.5)
        self.lora_A, self.lora_B = nn.Linear(n_in, rank, bias=False), nn.Linear(rank, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.lora_B(self.lora_A(self.dropout(x))) * self.scaling
        return added + self.base_layer(x)

    @property
    def merged(self) -> Tensor:
        return weight_of(self.base_layer) + self.scaling * self.lora_B.weight @ self.lora_A.weight


class Scaled(nn.Module):
    """Scales what goes into a linear map, as IA3 does around the output projection of a feed-forward block."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.ia3_l = base_layer, nn.Parameter(torch.ones((features_of(base_layer) or (0, 0))[0]))

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.base_layer(x * self.ia3_l)
        return scaled

    @property
    def merged(self) -> Tensor:
        return weight_of(self.base_layer) * self.ia3_l


@torch.no_grad()
def adapted(module: Any, kinds: dict[str, Callable[[nn.Module], Any]]) -> tuple[Any, Any]:
    """Return a copy of `module` with adapters around the maps whose paths end as `kinds` says, and its merged copy."""
    inside, merged = copy.deepcopy(module), copy.deepcopy(module)
    torch.manual_seed(1)
    paths = {path: kind for path, _ in module.named_modules() for end, kind in kinds.items() if path.endswith(end)}
    assert paths
    for path, kind in paths.items():
        adapter = kind(inside.get_submodule(path))
        for name, weight in adapter.named_parameters():
            if "base_layer" not in name:
                weight.add_(torch.randn(weight.shape) * 0.3)
        inside.set_submodule(path, adapter.requires_grad_(False).eval())
        weight_of(merged.get_submodule(path)).copy_(adapter.merged)
    return inside, merged


ADAPTERS: dict[str, dict[str, Callable[[nn.Module], Any]]] = {
    "LoRA on down_proj": {"mlp.down_proj": LowRank},
    "LoRA on all of mlp": {"mlp.up_proj": LowRank, "mlp.down_proj": LowRank, "mlp.gate_proj": LowRank},
    "LoRA on lm_head": {"lm_head": LowRank},
    "IA3 on down_proj": {"mlp.down_proj": Scaled},
    "both, one around the other": {"mlp.down_proj": lambda base: LowRank(Scaled(base)), "lm_head": LowRank},
}


@pytest.fixture(params=ADAPTERS)
def models(request: pytest.FixtureRequest) -> tuple[HuggingFaceMLLM, HuggingFaceMLLM, HuggingFaceMLLM]:
    """A model, the same inside an adapter, and its merged copy."""
    own = tiny("llava")
    inside, merged = adapted(own.module, ADAPTERS[request.param])
    return own, replace(own, module=inside), replace(own, module=merged)


def test_a_model_inside_an_adapter_has_the_scores_the_words_and_the_edits_of_its_merged_copy(
    models: tuple[HuggingFaceMLLM, ...],
) -> None:
    plain, inside, merged = models
    locator = Locator({name: Stage(one, TopK(4)) for name, one in SCORERS.items()}, target=Target(on_missing="force"))  # type: ignore[arg-type]
    own, scores, expected = (locator.score(model, PAIRS) for model in (plain, inside, merged))
    for name, one in expected.items():
        torch.testing.assert_close(scores[name].values, one.values, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(own[name].values, one.values, atol=1e-6, rtol=1e-4)
    assert decode(inside, SOME, k=5) == decode(merged, SOME, k=5)
    batch = plain.teacher_forced([PAIRS[0].image], [()])
    with torch.no_grad():
        for operator in (Zero(), Scale(-2.0)):
            logits = []
            for model in (inside, merged):
                with Edit(SOME, operator).applied(model):
                    logits.append(model.logits(batch))
            torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_what_is_recorded_is_what_goes_into_the_adapter(models: tuple[HuggingFaceMLLM, ...]) -> None:
    _, inside, merged = models
    batch, seen = inside.teacher_forced([PAIRS[0].image], [()]), []
    for model in (inside, merged):
        with record(model.module, model.site()) as activations, torch.no_grad():
            model.logits(batch)
        seen.append(activations)
    for layer, one in seen[0].items():
        torch.testing.assert_close(one, seen[1][layer], atol=1e-4, rtol=1e-4)


def test_an_adapter_around_a_transposed_weight_is_found_and_read_as_merged() -> None:
    inside, merged = adapted(tiny("gpt2").module, {"mlp.c_proj": LowRank})
    assert Site.of(inside).widths == Site.of(merged).widths
    torch.testing.assert_close(*(Site.of(one).value_matrix(one, 1) for one in (inside, merged)))


def test_an_adapter_in_training_mode_is_read_without_its_dropout_and_stays_in_it() -> None:
    inside, merged = adapted(tiny("llava").module, {"mlp.down_proj": LowRank, "lm_head": LowRank})
    inside.train()
    torch.testing.assert_close(*(Site.of(one).value_matrix(one, 1) for one in (inside, merged)))
    vectors = torch.randn(3, merged.lm_head.in_features, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(*(Unembedding.of(one).logits(vectors) for one in (inside, merged)))
    assert all(one.training for one in inside.modules())


def test_reading_a_weight_while_neurons_are_edited_reads_it_unedited() -> None:
    inside, _ = adapted(tiny("llava").module, {"mlp.down_proj": LowRank})
    site = Site.of(inside)
    before = site.value_matrix(inside, 0)
    with Edit(SOME, Zero()).applied(inside):
        assert torch.equal(site.value_matrix(inside, 0), before)
        inside(torch.tensor([[5, 6]]))  # else the edit warns that it did nothing


# --- other ways to keep a weight


def normed(linear: Any) -> Any:
    """Return the map with torch's parametrization, by a magnitude and a direction that are changed afterwards."""
    weight_norm(linear)
    linear.parametrizations.weight.original0.data.mul_(1.5)
    return linear


def normed_by_a_hook(linear: Any) -> Any:
    """The same as older code has it: what `weight` holds is stale until the next pass."""
    with pytest.warns(FutureWarning, match="weight_norm"):
        torch.nn.utils.weight_norm(linear)
    linear.weight_g.data.mul_(1.5)
    return linear


def pruned(linear: Any) -> Any:
    prune.random_unstructured(linear, "weight", 0.5)
    linear.weight_orig.data.mul_(1.5)
    return linear


def eight_bits(linear: Any) -> Any:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear})[0]


def offloaded(linear: Any) -> Any:
    return cpu_offload(linear, torch.device("cpu"))


def offloaded_inside_an_adapter(linear: Any) -> Any:
    return cpu_offload(LowRank(linear), torch.device("cpu"))


class Doubling(nn.Linear):
    """A subclass that does not multiply with its weight alone."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def doubled(linear: Any) -> Any:
    made = Doubling(linear.in_features, linear.out_features)
    made.load_state_dict(linear.state_dict())
    return made


FORMS = (normed, normed_by_a_hook, pruned, offloaded, offloaded_inside_an_adapter, doubled, LowRank, Scaled)


@pytest.mark.parametrize("keep", FORMS)
@pytest.mark.parametrize("n_in", [12, 1500])
def test_a_weight_is_what_the_module_multiplies_with(keep: Callable[[Any], Any], n_in: int) -> None:
    torch.manual_seed(0)
    module = keep(nn.Linear(n_in, 7)).eval()
    weight = weight_of(module)
    inputs = torch.randn(5, n_in)
    with torch.no_grad():
        torch.testing.assert_close(inputs @ weight.T, module(inputs) - module(inputs * 0), atol=1e-4, rtol=1e-4)
    assert weight.shape == (7, n_in)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
def test_a_weight_of_eight_bits_is_read_as_it_acts() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(12, 7)
    off = (weight_of(eight_bits(linear)) - linear.weight).abs().max()
    assert 0 < off <= linear.weight.abs().max() / 127


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
def test_a_model_of_eight_bits_without_a_backward_pass_is_scored_by_its_weights_and_by_no_gradient() -> None:
    model = tiny("llava")
    module: Any = torch.ao.quantization.quantize_dynamic(model.module, {nn.Linear})
    quantized, force = replace(model, module=module), Target(on_missing="force")
    act = Locator({"act": Stage(SCORERS["act_unembed"], TopK(4))}, target=force)  # type: ignore[arg-type]
    assert act.score(quantized, PAIRS)["act"].values.isfinite().all()
    with pytest.raises(ValueError, match=r"no gradient of the concept's word reaches a layer of .* weights of 8 bits"):
        Locator({"gradcam": Stage(GradCAM(), TopK(4))}, target=force).score(quantized, PAIRS)


def test_a_plain_weight_is_no_copy_and_so_is_that_of_a_subclass_which_multiplies_with_it() -> None:
    linear = nn.Linear(4, 3)
    assert weight_of(linear) is linear.weight
    falcon = tiny_families.falcon()
    output = falcon.get_submodule(Site.of(falcon).block(0).output)
    assert type(output) is not nn.Linear and weight_of(output) is output.weight
    assert weight_of(parametrize.register_parametrization(nn.Linear(4, 3), "weight", nn.Tanh())).shape == (3, 4)


def test_an_adapter_around_a_tied_output_matrix_changes_the_output_alone() -> None:
    model = tiny("llava")
    model.module.lm_head.weight = model.module.get_input_embeddings().weight
    inside, _ = adapted(model.module, {"lm_head": LowRank})
    assert inside.lm_head.base_layer.weight is inside.get_input_embeddings().weight
    torch.testing.assert_close(Unembedding.of(inside).directions([40, 50], "none"), inside.lm_head.merged[[40, 50]])


# --- what cannot be read


class Bent(LowRank):
    """An adapter with a step in between, as no weight has it."""

    def forward(self, x: Tensor) -> Tensor:
        bent: Tensor = self.base_layer(x) + self.lora_B(self.lora_A(x).relu())
        return bent


class Packed(nn.Module):
    """A map whose numbers nothing can read."""

    in_features, out_features = 24, 16


@pytest.mark.parametrize(
    ("kind", "why"),
    [(Bent, "is no linear map: what it gives for a sum"), (lambda base: Packed(), "is packed or quantized")],
)
def test_what_has_no_weight_to_read_is_refused_by_name(kind: Callable[[Any], Any], why: str) -> None:
    torch.manual_seed(0)
    model = tiny("llava")
    module: Any = model.module
    path = model.site().block(1).output
    module.set_submodule(path, kind(module.get_submodule(path)))
    with pytest.raises(SiteError, match=rf"`{path}` \((Bent|Packed)\) {why}"):
        model.site().value_matrix(module, 1)


def test_a_weight_that_is_nowhere_is_refused_inside_an_adapter_too() -> None:
    with pytest.raises(WeightError, match="the weight of `down` is on the meta device: it holds no numbers"):
        weight_of(LowRank(nn.Linear(2, 2, device="meta")).to("meta"), "down")


class AroundExperts(nn.Module):
    """Around experts, as PEFT's adapters of a parameter are: no linear map."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.lora_A, self.lora_B = base_layer, nn.Linear(16, 2), nn.Linear(2, 16)


def test_experts_inside_an_adapter_are_found_and_their_weights_refused() -> None:
    module = tiny_families.mixtral()
    path = Site.of(module).block(0).output
    widths = Site.of(module).widths
    module.set_submodule(path, AroundExperts(module.get_submodule(path)))
    site = Site.of(module)
    assert site.widths == widths and site.block(0).output == f"{path}.base_layer"
    with pytest.raises(SiteError, match=rf"the experts `{path}` are inside an adapter \(AroundExperts\)"):
        site.value_vector(module, NeuronId(0, 0))


# --- PEFT's own adapters, where it is installed


def peft_configurations() -> dict[str, Any]:
    peft = pytest.importorskip("peft")
    low_rank, both = partial_of(peft.LoraConfig, r=3, lora_alpha=12, lora_dropout=0.5), ["down_proj", "lm_head"]
    return {
        "lora": low_rank(target_modules=both),
        "dora": low_rank(target_modules=both, use_dora=True),
        "all": low_rank(target_modules=["embed_tokens", "up_proj", "down_proj", "q_proj"]),
        "ia3": peft.IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"]),
        "whole copies": low_rank(target_modules=["up_proj"], modules_to_save=["lm_head", "norm", "down_proj"]),
        "norms": peft.LNTuningConfig(target_modules=["norm"]),
    }


def partial_of(kind: Callable[..., Any], **common: Any) -> Callable[..., Any]:
    return lambda **more: kind(**common, **more)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["lora", "dora", "all", "ia3", "whole copies", "norms"])
def test_a_peft_model_has_the_weights_and_scores_of_its_merged_copy(name: str) -> None:
    config, own = peft_configurations()[name], tiny("llava")
    import peft

    inside = peft.get_peft_model(copy.deepcopy(own.module), config)
    generator = torch.Generator().manual_seed(1)
    for path, weight in inside.named_parameters():
        if any(part in path for part in ("lora_", "ia3_", "ln_tuning", "modules_to_save")):
            weight.data.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    models = [wrap(one, own.processor, name="m") for one in (inside, copy.deepcopy(inside).merge_and_unload())]
    locator = Locator({"act": Stage(SCORERS["act_unembed"], TopK(4))}, target=Target(on_missing="force"))  # type: ignore[arg-type]
    scores = [locator.score(model, PAIRS)["act"].values for model in models]
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(scores[0], locator.score(own, PAIRS)["act"].values, atol=1e-3)
    assert decode(models[0], SOME, k=5) == decode(models[1], SOME, k=5)
