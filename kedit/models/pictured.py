"""A language model of transformers that reads pictures' features among its tokens, for models of original files.

Imported only where such a model is loaded, because it subclasses transformers' classes.
"""

from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel


class ReadsPictures(PreTrainedModel, GenerationMixin):
    """Called with token ids in which `config.image_token_id` stands wherever a picture's features go."""

    called: str
    """What errors call the model."""
    config: Any
    language_model: Any

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's token embedding."""
        found: nn.Module = self.language_model.get_input_embeddings()
        return found

    def get_output_embeddings(self) -> nn.Module:
        """Return the language model's unembedding."""
        found: nn.Module = self.language_model.get_output_embeddings()
        return found

    def image_embeds(self, pixel_values: Tensor) -> Tensor:
        """Return what the language model gets of each picture: `[picture, image_pos, d_model]`."""
        raise NotImplementedError

    def embeds(self, input_ids: Tensor, pixel_values: Tensor | None) -> Tensor:
        """Return the embedding of each position, `[batch, pos, d_model]`, pictures in the order of `pixel_values`."""
        embeds: Tensor = self.get_input_embeddings()(input_ids)
        if pixel_values is None:
            return embeds
        pictures = self.image_embeds(pixel_values).to(embeds)
        places = input_ids == self.config.image_token_id
        if int(places.sum()) != pictures.shape[0] * pictures.shape[1]:
            raise ValueError(
                f"{pictures.shape[0]} pictures fill {pictures.shape[0] * pictures.shape[1]} positions, and the prompts "
                f"have {int(places.sum())} image tokens; give each picture {self.config.n_image_tokens}"
            )
        return embeds.masked_scatter(places[..., None], pictures)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **options: Any,
    ) -> Any:
        """Return the language model's output on token ids and pictures, or on embeddings of one's own.

        The cache is among `options`, under the name that this release of transformers has for it.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError(f"{self.called} needs `input_ids` or `inputs_embeds`, got neither")
            inputs_embeds = self.embeds(input_ids, pixel_values)
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            logits_to_keep=logits_to_keep,
            **options,
        )
