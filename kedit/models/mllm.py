"""A multimodal language model as kedit sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL.Image import Image
from torch import Tensor, nn

from kedit.internals.positions import behind_pictures
from kedit.internals.sites import Site
from kedit.neurons import Scope, SiteName
from kedit.prompts import Medium, Prompt
from kedit.samples import Concept, Progress, Question, silent

PADDING, TEXT, IMAGE = 0, 1, 2
"""What a position holds; see `TeacherForced.token_types`."""
MODALITIES = ("padding", "text", "special", "image", "video", "audio")
"""What a position holds in more detail; an entry of `TeacherForced.modalities` is an index into this."""
TokenType = Literal["all", "image", "text", "image_end"]
"""Which positions: those that hold a token, image tokens, the other tokens, or of these the ones behind pictures."""
STUB = "a picture of"
"""What a caption starts with when a concept that it does not name is forced into it."""


@dataclass(frozen=True)
class Generated:
    """A generated text and its token ids, without special tokens."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Mention:
    """Where a caption first names a concept: the tokens before it and those of the word."""

    prefix: tuple[int, ...]
    word: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TeacherForced:
    """A teacher-forced batch, padded on the left: the last column predicts what comes next."""

    inputs: Mapping[str, Tensor]
    token_types: Tensor
    """`[batch, pos]`: `PADDING`, `TEXT` or `IMAGE`."""
    modalities: Tensor
    """`[batch, pos]`, indices into `MODALITIES`."""
    prompt: Tensor
    """`[batch, pos]`, true where a position belongs to the prompt, not to the forced words or the padding."""

    def repeated(self, n: int) -> "TeacherForced":
        """Return `n` copies of a batch of one sample.

        Whole samples are repeated along the first axis, whether it counts samples or, as the pixels of models with
        dynamic resolution, the patches of all of them.
        """
        if len(self.token_types) != 1:
            raise ValueError(f"only a batch of one sample can be repeated, got one of {len(self.token_types)}")

        def copies(values: Tensor) -> Tensor:
            return values.repeat(n, *[1] * (values.ndim - 1))

        inputs = {name: copies(values) for name, values in self.inputs.items()}
        return TeacherForced(inputs, copies(self.token_types), copies(self.modalities), copies(self.prompt))


def of_token_type(token_types: Tensor, which: TokenType) -> Tensor:
    """Return which positions are `which`, of the same shape as `token_types`; see `TeacherForced.token_types`."""
    if which == "image_end":
        return behind_pictures(token_types == IMAGE)
    return {"all": token_types != PADDING, "image": token_types == IMAGE, "text": token_types == TEXT}[which]


class MLLM(Protocol):
    """What locating, editing and evaluating need of a model."""

    @property
    def name(self) -> str:
        """What tables and figures call the model."""
        ...

    @property
    def module(self) -> nn.Module:
        """What hooks go into."""
        ...

    @property
    def prompt(self) -> str:
        """What asks for a caption."""
        ...

    @property
    def batch_size(self) -> int:
        """How many samples go through the model at once."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Where a caption or an answer ends at the latest."""
        ...

    def site(self, name: SiteName, scope: Scope = "language") -> Site:
        """Return where the neurons of a part of the model live."""
        ...

    def require(self, medium: Medium) -> None:
        """Raise a ValueError unless a prompt may hold `medium`."""
        ...

    def caption(self, images: Sequence[Image], *, progress: Progress = silent) -> list[Generated]:
        """Return a greedy caption of each picture."""
        ...

    def answer(self, questions: Sequence[Question], *, progress: Progress = silent) -> list[str]:
        """Return the greedy answer to each question."""
        ...

    def ask(
        self,
        prompts: Sequence[Prompt],
        *,
        progress: Progress = silent,
        what: str = "answers",
        drafts: Sequence[Generated] | None = None,
    ) -> list[Generated]:
        """Return what the model says to each prompt, greedily; see `HuggingFaceMLLM.ask`."""
        ...

    def mention(self, caption: Generated, concept: Concept, *, force: bool = False) -> Mention | None:
        """Return the first mention of `concept`, or None."""
        ...

    def teacher_forced(self, images: Sequence[Image], prefixes: Sequence[tuple[int, ...]]) -> TeacherForced:
        """Return the captioning prompt followed by a caption prefix, for each picture."""
        ...

    def read(self, prompts: Sequence[Prompt], prefixes: Sequence[tuple[int, ...]]) -> TeacherForced:
        """Return each prompt, all of one medium, followed by the first tokens of an answer."""
        ...

    def logits(self, batch: TeacherForced, n_last: int = 1) -> Tensor:
        """Return the last positions' logits, `[batch, n_last, vocab]`, with a graph if gradients are on."""
        ...

    def words(self, tokens: Sequence[int]) -> list[str]:
        """Return each token as text."""
        ...
