"""GILL as one module: CLIP, a linear map, an OPT that writes [IMG] tokens, and what makes a drawing of their states.

Imported only inside `kedit.models.gill.loading.load`, because it subclasses transformers' classes.

Koh et al. 2023, arXiv 2305.17216, as the original code runs it (kohjingyu/gill, commit 4600b71).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LogitsProcessor,
    LogitsProcessorList,
)

from kedit.models.endings import Ending, generate_to_end
from kedit.models.pictured import ReadsPictures


class GILLConfig(LlavaConfig):
    """A vision tower, a language model and an image token, as LLaVA's, and the sizes of what is between them."""

    model_type = "gill"

    n_image_tokens: int = 4
    """How many positions of the language model a picture takes."""
    n_img_tokens: int = 8
    """How many tokens draw one; they are the last ones of the vocabulary."""
    retrieval_size: int = 256
    mapper_hidden_size: int = 512
    mapper_intermediate_size: int = 2048
    mapper_encoder_layers: int = 4
    mapper_decoder_layers: int = 4
    mapper_heads: int = 4
    mapper_queries: int = 77
    mapper_output_size: int = 768


class GILLMapper(nn.Module):
    """Turns the states at the [IMG] tokens into what a text encoder would have told Stable Diffusion."""

    def __init__(self, described: Any, d_model: int) -> None:
        super().__init__()
        hidden = described.mapper_hidden_size
        self.fc = nn.Linear(d_model, hidden)
        sizes: dict[str, Any] = {
            "d_model": hidden, "nhead": described.mapper_heads, "dropout": 0.0, "batch_first": True, "norm_first": True,
            "dim_feedforward": described.mapper_intermediate_size,
        }  # fmt: skip
        # As nn.Transformer makes it, but for nested tensors, which it warns that it cannot have here.
        encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**sizes), described.mapper_encoder_layers, nn.LayerNorm(hidden),
            enable_nested_tensor=False,
        )  # fmt: skip
        self.tfm = nn.Transformer(**sizes, num_decoder_layers=described.mapper_decoder_layers, custom_encoder=encoder)
        self.model = nn.Linear(hidden, described.mapper_output_size)
        self.query_embs = nn.Parameter(torch.zeros(1, described.mapper_queries, hidden))

    def forward(self, states: Tensor, embeds: Tensor) -> Tensor:
        """Return `[batch, query, feature]` of last states and embeddings, both `[batch, img, d_model]`."""
        read = self.tfm(self.fc(states + embeds), self.query_embs.expand(len(states), -1, -1))
        made: Tensor = self.model(read)
        return made


class ImgTokens(LogitsProcessor):
    """Lets [IMG] tokens be written together, in order, and not before some words; or not at all."""

    def __init__(self, described: Any, first: int, n_prompt: int, scale: float | None, min_words: int) -> None:
        self.image, self.first, self.last = described.image_token_id, first, first + described.n_img_tokens - 1
        self.n_prompt, self.scale, self.min_words = n_prompt, scale, min_words

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return `[row, token]`: the scores that are left; the first [IMG] token's is its size times `scale`."""
        begun = scores[:, self.first]
        left = scores.clone()
        left[:, [self.image, *range(self.first, self.last + 1)]] = -torch.inf
        if self.scale is None:
            return left
        if input_ids.shape[1] - self.n_prompt >= self.min_words:
            left[:, self.first] = begun.abs() * self.scale if self.scale > 1 else begun
        latest = input_ids[:, -1] if input_ids.shape[1] else input_ids.new_zeros(len(scores))
        within = (latest >= self.first) & (latest < self.last)
        left[within] = -torch.inf
        left[within, latest[within] + 1] = 0
        return left


class GILL(ReadsPictures):
    """The model."""

    called = "GILL"
    config_class = GILLConfig
    base_model_prefix = ""
    input_modalities = LlavaForConditionalGeneration.input_modalities  # type: ignore[assignment]
    pools_pictures = True
    """All tokens of a picture are made of one vector."""

    def __init__(self, described: Any) -> None:
        super().__init__(described)
        d_model, seen = described.text_config.word_embed_proj_dim, described.vision_config.hidden_size
        self.vision_model: Any = CLIPVisionModel(described.vision_config)
        self.language_model: Any = AutoModelForCausalLM.from_config(described.text_config)
        self.visual_embeddings = nn.Linear(seen, d_model * described.n_image_tokens)
        self.mapper = GILLMapper(described, d_model)
        self.retrieval_text = nn.Linear(d_model, described.retrieval_size)
        self.retrieval_picture = nn.Linear(seen, described.retrieval_size)
        self.logit_scale = nn.Parameter(torch.zeros([]))
        self.ending: Ending | None = None
        self.post_init()  # type: ignore[no-untyped-call]

    @property
    def img_tokens(self) -> range:
        """The ids of the tokens at which it draws."""
        n_tokens = self.config.text_config.vocab_size
        return range(n_tokens - self.config.n_img_tokens, n_tokens)

    def image_embeds(self, pixel_values: Tensor) -> Tensor:
        """Return what the language model gets of each picture: `[picture, image_pos, d_model]`."""
        pooled = self.vision_model(pixel_values.to(self.visual_embeddings.weight.dtype)).pooler_output
        made: Tensor = self.visual_embeddings(pooled)
        return made.reshape(len(made), self.config.n_image_tokens, -1)

    def img_states(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, pixel_values: Tensor | None = None
    ) -> Tensor:
        """Return the last hidden states, behind the final norm, at each row's [IMG] tokens: `[batch, img, d_model]`.

        Each row has them once; a graph is kept if gradients are on.
        """
        embeds = self.embeds(input_ids, pixel_values)
        states = self.language_model.model.decoder(inputs_embeds=embeds, attention_mask=attention_mask)
        return self._at_img(states.last_hidden_state, input_ids)

    def map_states(self, states: Tensor) -> Tensor:
        """Return what states at the [IMG] tokens, `[batch, img, d_model]`, tell Stable Diffusion.

        Shape `[batch, query, feature]`; a graph is kept if gradients are on.
        """
        embeds = self.get_input_embeddings()(torch.tensor(self.img_tokens, device=states.device))
        mapped: Tensor = self.mapper(states, embeds.expand_as(states))
        return mapped

    def text_vectors(self, states: Tensor) -> Tensor:
        """Return `[batch, retrieval]`, of length one, of states at [IMG] tokens, of which the first one counts."""
        return functional.normalize(self.retrieval_text(states[:, 0]), dim=-1)

    def picture_vectors(self, pixel_values: Tensor) -> Tensor:
        """Return `[picture, retrieval]`, of length one times the learned scale: products with texts' are scores."""
        pooled = self.vision_model(pixel_values.to(self.retrieval_picture.weight.dtype)).pooler_output
        scaled: Tensor = self.logit_scale.exp() * functional.normalize(self.retrieval_picture(pooled), dim=-1)
        return scaled

    def generate(self, *args: Any, img_scale: float | None = None, min_words: int = 0, **options: Any) -> Any:
        """Return the prompt and what follows, as transformers does; of an answer, only what `ending` keeps of it.

        Args:
            args: As transformers'.
            img_scale: How much more likely [IMG] tokens are made: the size of the first one's logit is multiplied by
                what is above 1. None lets none be written.
            min_words: How many tokens come before the first [IMG] token at the least.
            options: As transformers'.
        """
        parent: Any = super()
        prompt = options.get("input_ids", args[0] if args else None)
        n_prompt = 0 if prompt is None else prompt.shape[1]
        own = ImgTokens(self.config, self.img_tokens[0], n_prompt, img_scale, min_words)
        given = options.pop("logits_processor", None) or ()
        return generate_to_end(
            parent.generate, self.ending, *args, logits_processor=LogitsProcessorList([*given, own]), **options
        )

    def _at_img(self, states: Tensor, input_ids: Tensor) -> Tensor:
        """Return what of `[batch, pos, d_model]` stands at the [IMG] tokens of each row."""
        first, n = self.img_tokens[0], self.config.n_img_tokens
        places = input_ids >= first
        if (counts := places.sum(1).tolist()) != [n] * len(counts):
            raise ValueError(f"a row draws at {n} [IMG] tokens, got rows with {sorted(set(counts))} of them")
        return states[places.to(states.device)].reshape(len(states), n, -1)
