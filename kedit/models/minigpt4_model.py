"""MiniGPT-4 as one module: vision tower, Q-Former or joined patches, a linear map, and a language model.

Imported only inside `kedit.models.minigpt4.load`, because it subclasses transformers' classes.

Zhu et al. 2023, arXiv 2304.10592, as the original code runs it (Vision-CAIR/MiniGPT-4, commit d94738a). Its parts are
those of BLIP-2 in transformers, but for three things: the norm after the vision tower has another epsilon
than the tower's own norms, the language model knows no image token, and one flavor has no Q-Former.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerModel,
    Blip2VisionModel,
)

from kedit.models.endings import Ending, generate_to_end
from kedit.models.pictured import ReadsPictures

LN_VISION_EPS = 1e-5
"""Of the norm after the vision tower; the tower's own norms have 1e-6."""
JOINED_PATCHES = 4
"""Without a Q-Former, so many patches that follow each other in a row become one image token."""


class MiniGPT4Config(Blip2Config):
    """The sizes of the parts; `num_query_tokens` is 0 where there is no Q-Former."""

    model_type = "minigpt4"

    @property
    def n_image_tokens(self) -> int:
        """How many positions of the language model a picture takes."""
        return int(self.num_query_tokens or self.patches_across**2 // JOINED_PATCHES)

    @property
    def patches_across(self) -> int:
        """How many patches of the vision tower lie in a row."""
        vision: Any = self.vision_config
        return int(vision.image_size // vision.patch_size)

    @property
    def projected(self) -> int:
        """The width of what the linear map in front of the language model reads."""
        vision, qformer = (cast(Any, part) for part in (self.vision_config, self.qformer_config))
        return int(qformer.hidden_size if self.num_query_tokens else JOINED_PATCHES * vision.hidden_size)


class TokenEmbedding(nn.Embedding):
    """A language model's token embedding that also takes the image token, which is not in the vocabulary.

    The picture's features replace what it returns there, which is zero. So the vocabulary stays what it was, no
    logit is added, and whoever reads the token ids on their way in can tell where the picture is.
    """

    @classmethod
    def sharing(cls, other: nn.Embedding) -> "TokenEmbedding":
        """Return one with the weight of `other`, not a copy."""
        made = cls(other.num_embeddings, other.embedding_dim, device="meta")
        made.weight = other.weight
        return made

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embedding of each token: `[batch, pos]` to `[batch, pos, d_model]`."""
        outside = ids >= self.num_embeddings
        return super().forward(ids.masked_fill(outside, 0)).masked_fill(outside[..., None], 0)


class MiniGPT4(ReadsPictures):
    """The model."""

    called = "MiniGPT-4"
    config_class = MiniGPT4Config
    base_model_prefix = ""
    input_modalities = Blip2ForConditionalGeneration.input_modalities  # type: ignore[assignment]

    def __init__(self, described: Any) -> None:
        super().__init__(described)
        vision: Any = Blip2VisionModel(described.vision_config)
        vision.post_layernorm.eps = LN_VISION_EPS
        self.vision_model = vision
        if described.num_query_tokens:
            shape = (1, described.num_query_tokens, described.qformer_config.hidden_size)
            self.query_tokens = nn.Parameter(torch.zeros(shape))
            self.qformer = Blip2QFormerModel(described.qformer_config)
        self.language_projection = nn.Linear(described.projected, described.text_config.hidden_size)
        self.ending: Ending | None = None
        self.use(AutoModelForCausalLM.from_config(described.text_config))
        self.post_init()  # type: ignore[no-untyped-call]

    def use(self, language_model: Any) -> None:
        """Make `language_model` the one that reads and writes; its token embedding learns to pass by pictures."""
        language_model.set_input_embeddings(TokenEmbedding.sharing(language_model.get_input_embeddings()))
        self.language_model = language_model

    @property
    def image_grid(self) -> tuple[int, int] | None:
        """The rows and columns of a picture's positions; None where they have no place in it (a Q-Former's queries)."""
        side = self.config.patches_across
        if self.config.num_query_tokens or side % JOINED_PATCHES:
            return None
        return side, side // JOINED_PATCHES

    def image_embeds(self, pixel_values: Tensor) -> Tensor:
        """Return what the language model gets of each picture: `[batch, image_pos, d_model]`."""
        seen = self.vision_model(pixel_values).last_hidden_state
        if self.config.num_query_tokens:
            queries = self.query_tokens.expand(len(seen), -1, -1)
            read = self.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
        else:
            patches = seen[:, 1:]
            read = patches.reshape(len(patches), self.config.n_image_tokens, self.config.projected)
        embeds: Tensor = self.language_projection(read.to(self.language_projection.weight.dtype))
        return embeds

    def generate(self, *args: Any, **options: Any) -> Any:
        """Return the prompt and what follows, as transformers does; of an answer, only what `ending` keeps of it."""
        parent: Any = super()
        return generate_to_end(parent.generate, self.ending, *args, **options)
