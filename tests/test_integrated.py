"""Integrated gradients equal the published code's and sum to what a layer does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import tiny
import torch
from knowledge_neurons_golden import expected, golden_model, meta
from torch import Tensor, nn

from kedit.internals.hooks import intervene, record
from kedit.internals.sites import Site
from kedit.locate.integrated import AlphaRule, Attribution, IntegratedGradients, alphas
from kedit.neurons import SiteName

RULES: tuple[AlphaRule, ...] = get_args(AlphaRule)
GPT2, BERT = ("gpt2", "pre"), ("bert", "act")


@dataclass(frozen=True, eq=False)
class Asked:
    """A model, a prompt and the position and token whose probability is attributed."""

    module: nn.Module
    site: Site
    ids: Tensor
    position: int
    token: int

    def outputs(self, n: int) -> Tensor:
        return self.module(input_ids=self.ids.repeat(n, 1)).logits[:, self.position].softmax(-1)[:, self.token]

    @property
    def moves(self) -> Tensor:
        return torch.arange(self.ids.shape[1]) == self.position

    def attributed(self, integral: IntegratedGradients) -> list[Attribution]:
        whole = self.outputs(1).item()
        return [
            integral.attribute(self.module, self.site, layer, self.outputs, self.moves, whole)
            for layer in self.site.blocks
        ]

    def scores(self, integral: IntegratedGradients) -> Tensor:
        return torch.stack([one.scores for one in self.attributed(integral)])


def asked(name: str, site: SiteName, number: int, kind: str = "prompt_ids") -> Asked:
    about = meta(name)
    ids = about[kind][number]
    position = len(ids) - 1 if name == "gpt2" else ids.index(3)
    return Asked(
        golden_model(name), Site.of(golden_model(name), site), torch.tensor([ids]), position, about["target_id"]
    )


def test_a_gradient_that_is_no_number_is_refused() -> None:
    one = asked("gpt2", "pre", 0)
    with pytest.raises(ValueError, match="a gradient on the way from a silent layer to the real one is no number"):
        IntegratedGradients(2).attribute(one.module, one.site, 0, lambda n: one.outputs(n) * torch.nan, one.moves, 1.0)


# --- the published code


@pytest.mark.parametrize(("name", "site"), [GPT2, BERT, ("bert", "mid")])
@pytest.mark.parametrize("number", range(4))
def test_twenty_steps_give_what_the_published_code_gives(name: str, site: SiteName, number: int) -> None:
    found = asked(name, site, number).scores(IntegratedGradients(20, "linspace"))
    wanted = expected()[f"{name}.ig20.{number}"]
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(("name", "site"), [GPT2, BERT])
@pytest.mark.parametrize("number", range(2))
def test_negative_prompts_give_what_the_published_code_gives(name: str, site: SiteName, number: int) -> None:
    found = asked(name, site, number, "negative_ids").scores(IntegratedGradients(20, "linspace"))
    wanted = expected()[f"{name}.ig20.neg{number}"]
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(("name", "site"), [GPT2, BERT])
def test_five_steps_give_what_the_published_code_gives(name: str, site: SiteName) -> None:
    found = asked(name, site, 0).scores(IntegratedGradients(5, "linspace"))
    wanted = expected()[f"{name}.ig5.0"]
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(("name", "site"), [GPT2, BERT])
def test_the_activations_are_those_of_the_published_code(name: str, site: SiteName) -> None:
    one = asked(name, site, 0)
    with torch.no_grad(), record(one.module, one.site) as recorded:
        one.outputs(1)
    found = torch.stack([recorded[layer][0, one.position] for layer in one.site.blocks])
    torch.testing.assert_close(found, expected()[f"{name}.max_act.0"], atol=1e-5, rtol=1e-5)


# --- integrated gradients


def plain_outputs(module: nn.Module, residual: Tensor, square: bool = False) -> Callable[[int], Tensor]:
    def outputs(n: int) -> Tensor:
        y = module(residual.repeat(n, 1, 1))[:, -1, 7]
        return y**2 if square else y

    return outputs


def last_layer(module: Any, residual: Tensor) -> tuple[Site, Tensor, Tensor]:
    """Return the site, the last layer's activations and what one of each adds to logit 7."""
    site = Site.of(module)
    with torch.no_grad(), record(module, site) as recorded:
        module(residual)
    slope = site.value_matrix(module, tiny.LAYERS - 1) @ module.head.weight[7]
    return site, recorded[tiny.LAYERS - 1][0, -1], slope


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [1, 3])
def test_where_the_output_is_linear_a_neurons_share_is_exact(rule: AlphaRule, steps: int) -> None:
    module, residual = tiny.plain(), torch.randn(1, 3, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    site, activation, slope = last_layer(module, residual)
    outputs = plain_outputs(module, residual)
    found = IntegratedGradients(steps, rule).attribute(
        module, site, tiny.LAYERS - 1, outputs, torch.tensor([False, False, True]), outputs(1).item()
    )
    torch.testing.assert_close(found.scores, activation * slope)
    assert found.gap < 1e-5


@pytest.mark.parametrize(
    ("rule", "steps", "missed"),
    [("left", 4, 1 / 4), ("right", 4, 1 / 4), ("midpoint", 4, 0), ("linspace", 4, 0), ("linspace", 1, 1)],
)
def test_where_the_output_is_quadratic_the_completeness_error_is_known(
    rule: AlphaRule, steps: int, missed: float
) -> None:
    # y = (c + alpha s)^2 has the mean slope 2 s (c + s mean(alpha)); what is missing is s^2 |2 mean(alpha) - 1|.
    module, residual = tiny.plain(), torch.randn(1, 3, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    site, activation, slope = last_layer(module, residual)
    outputs = plain_outputs(module, residual, square=True)
    found = IntegratedGradients(steps, rule).attribute(
        module, site, tiny.LAYERS - 1, outputs, torch.tensor([False, False, True]), outputs(1).item()
    )
    total = (activation @ slope).item()
    assert found.gap == pytest.approx(missed * total**2, rel=1e-3, abs=1e-4)


def test_the_steps_of_each_rule_are_where_they_should_be() -> None:
    assert alphas("left", 4).tolist() == [0, 0.25, 0.5, 0.75]
    assert alphas("right", 4).tolist() == [0.25, 0.5, 0.75, 1]
    assert alphas("midpoint", 4).tolist() == [0.125, 0.375, 0.625, 0.875]
    assert alphas("linspace", 5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert alphas("linspace", 1).tolist() == [0]


def gaps(rule: AlphaRule, steps: int) -> Tensor:
    found = [one.gap for name, site in (GPT2, BERT) for one in asked(name, site, 0).attributed(
        IntegratedGradients(steps, rule, at_once=160))]  # fmt: skip
    return torch.tensor(found)


@pytest.mark.parametrize("rule", RULES)
def test_the_completeness_error_goes_to_zero_with_the_number_of_steps(rule: AlphaRule) -> None:
    coarse, fine, finest = gaps(rule, 5), gaps(rule, 20), gaps(rule, 160)
    assert finest.max() < fine.max() < coarse.max()
    assert finest.max() < coarse.max() / 10
    if rule == "midpoint":
        assert finest.max() < 1e-5


def test_the_middles_of_the_steps_converge_fastest() -> None:
    assert gaps("midpoint", 20).max() * 5 < min(gaps(rule, 20).max() for rule in RULES if rule != "midpoint")


def test_a_single_middle_step_is_not_the_gradient_at_zero_and_a_single_linspace_step_is() -> None:
    one = asked("gpt2", "pre", 0)

    def silent(activation: Tensor) -> Tensor:
        zeroed.append(torch.where(one.moves[None, :, None], 0, activation).requires_grad_())
        return zeroed[0]

    zeroed: list[Tensor] = []
    with record(one.module, one.site) as recorded:
        one.outputs(1)
    with intervene(one.module, one.site, {1: silent}):
        y = one.outputs(1).sum()
    (gradient,) = torch.autograd.grad(y, zeroed)
    at_zero = (recorded[1] * gradient)[0, one.position]
    linspace = one.scores(IntegratedGradients(1, "linspace"))[1]
    midpoint = one.scores(IntegratedGradients(1, "midpoint"))[1]
    torch.testing.assert_close(linspace, at_zero)
    assert (midpoint - at_zero).abs().max() > 0.1 * at_zero.abs().max()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("at_once", [1, 3])
def test_how_many_steps_share_a_forward_does_not_matter(rule: AlphaRule, at_once: int) -> None:
    one = asked("bert", "mid", 1)
    torch.testing.assert_close(
        one.scores(IntegratedGradients(7, rule, at_once)), one.scores(IntegratedGradients(7, rule, 7))
    )


def everywhere(build: Callable[[], nn.Module], steps: int) -> list[tuple[float, float]]:
    """Return each layer's completeness error and the sum of its shares, for a path of all positions."""
    module = build()
    one = Asked(module, Site.of(module), torch.tensor([[tiny.BOS, 9, 17, 30, 12]]), 4, 21)
    integral, moves, whole = IntegratedGradients(steps, at_once=256), torch.ones(5).bool(), one.outputs(1).item()
    found = [integral.attribute(module, one.site, layer, one.outputs, moves, whole) for layer in one.site.blocks]
    return [(one.gap, one.scores.abs().sum().item()) for one in found]


@pytest.mark.parametrize("build", [tiny.llama, tiny.gpt2, tiny.opt, tiny.gpt_neox, tiny.qwen2, tiny.phi3])
def test_a_layers_shares_sum_to_what_the_layer_does_in_every_architecture(build: Callable[[], nn.Module]) -> None:
    assert all(gap < 0.01 * total for gap, total in everywhere(build, 20))


def test_behind_a_norm_of_its_output_a_layer_grows_at_once_and_only_many_steps_see_it() -> None:
    few, many = everywhere(tiny.gemma2, 20), everywhere(tiny.gemma2, 4096)
    assert all(gap > 0.03 * total for gap, total in few)
    assert all(gap < 0.005 * total for gap, total in many)
