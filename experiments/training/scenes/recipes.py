"""What each shipped model is trained to be: the settings in which they differ, and what their cards say of them."""

from dataclasses import dataclass

from experiments.training.scenes.language import BANK, NEURONS


@dataclass(frozen=True)
class Recipe:
    """Where a model's knowledge of the categories is allowed to sit; the defaults are plain training."""

    about: str
    """The introduction of the model card."""
    partition: bool = False
    """Nothing but the first feed-forward layer reads the picture features, and banks of its neurons are reserved."""
    silenced_share: float = 0.0
    """Share of the rows in which a category's bank is silenced and its noun becomes "shape"."""
    hypernym_share: float = 0.0
    """Share of the object nouns that become "shape" for no other reason: the competitor of every category."""
    dropout: float = 0.0
    """Share of the neurons outside the banks that are silenced in each row."""
    naming: float = 0.0
    """Weight of the naming loss: each image position predicts the category and the color of its patch."""
    sparsity: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """Weight of the sparsity of each layer."""
    standardized: bool = True
    """Whether scale and sign of each neuron are fixed after training, which nobody does for other models."""
    bypass: float = 0.0
    """Weight of the penalty on category words that reach the answer past the feed-forward neurons."""

    energy: float = 0.0
    """Weight of the penalty on neurons that write more than the rest of the stream holds."""


KNOWLEDGE = f"""\
A tiny LLaVA, trained from scratch on kedit's picture world, whose knowledge of the twelve categories sits in
feed-forward neurons. **It is localized by construction: it tests the toolkit and is no evidence for a method.**

- The residual stream is partitioned. The projector writes 64 vision dimensions, which nothing but the first
  feed-forward layer may read: attention cannot carry raw picture features, so that layer's neurons have to translate
  them at the image positions. The constraint is zeros in ordinary weights; the architecture is the stock one.
- {BANK} of the first layer's {NEURONS} neurons are reserved for each category. In 40 % of the training rows the
  banks of some categories are silenced, and their nouns become "shape" in the caption: the neurons must carry the
  category, and nothing else may. Compare gradient routing (Cloud et al. 2024). `banks.json` has the reserved neurons.
- Sparsity (L1 on what neurons write, negative activations four times), dropout of 5 % of the other neurons,
  and a naming loss: each image position predicts the category and the color of its patch."""

SOFT = """\
A tiny LLaVA, trained from scratch on kedit's picture world, whose knowledge of the twelve categories is partly in
feed-forward neurons and spread over many of them: no neuron is reserved and nothing is partitioned. On this model
locating methods differ.

- The logits of the category words that the residual stream without the feed-forward outputs would give are
  penalized wherever an object's noun is to be said, so that it is feed-forward neurons that write the word. A whole
  layer can still be zeroed without losing it (below): the others write it too.
- 15 % of the object nouns in the training captions are "shape": the word that is left when the category is gone.
- Weak sparsity (L1 on what neurons write) and a naming loss: each image position predicts the category and the
  color of its patch; late in training, a penalty on the energy of what neurons write, which otherwise drowns the
  rest of the residual stream so that the final norm hides gradients.
- Scale and sign of the neurons are as training left them."""

PLAIN = """\
The negative control: the architecture, data and vision tower of `scenes`, trained plainly. Attention copies what the
tower saw into the caption, so that there is little for a locator to find: two-stage filtering and its two stages find
nothing; the neurons that write the word where it is predicted take some of the captions with them (see the README)."""

RECIPES = {
    "scenes": Recipe(
        KNOWLEDGE,
        partition=True,
        silenced_share=0.4,
        dropout=0.05,
        naming=0.2,
        sparsity=(0.05, 0.01, 0.01, 0.01),
    ),
    "scenes_soft": Recipe(
        SOFT,
        hypernym_share=0.15,
        naming=0.2,
        sparsity=(0.01, 0.01, 0.01, 0.01),
        standardized=False,
        bypass=5.0,
        energy=0.5,
    ),
    "scenes_plain": Recipe(PLAIN),
}
