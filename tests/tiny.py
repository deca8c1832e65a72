"""Tiny models with random weights, built from their own configuration classes, and what a test compares of them."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kedit.internals.hooks import Forgotten, Hook

PAD, BOS, EOS, IMAGE_TOKEN = 0, 1, 2, 4
N_IMAGE = 4
WIDTH, NEURONS, LAYERS, VOCAB = 16, 24, 2, 40
SIZES = {
    "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": NEURONS, "num_hidden_layers": LAYERS,
    "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": PAD, "bos_token_id": BOS,
    "eos_token_id": EOS, "initializer_range": 0.3,
}  # fmt: skip
OPT_SIZES = {
    "vocab_size": VOCAB, "hidden_size": WIDTH, "ffn_dim": NEURONS, "num_hidden_layers": LAYERS,
    "num_attention_heads": 2, "max_position_embeddings": 64, "word_embed_proj_dim": WIDTH, "init_std": 0.3,
    "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS,
}  # fmt: skip


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> Any:
    """Return the frozen model that `build` makes from `seed`, without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval().requires_grad_(False)


def llama(seed: int = 0, **sizes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return seeded(lambda: LlamaForCausalLM(LlamaConfig(**(SIZES | sizes))), seed)


def gpt2(n_inner: int = NEURONS) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": 64}
    config = GPT2Config(**sizes, n_inner=n_inner, initializer_range=0.3, bos_token_id=BOS, eos_token_id=EOS)
    return seeded(lambda: GPT2LMHeadModel(config))


def opt() -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    return seeded(lambda: OPTForCausalLM(OPTConfig(**OPT_SIZES)))


def gpt_neox() -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return seeded(lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)))


def qwen2() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return seeded(lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2)))


def gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return seeded(lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, num_key_value_heads=1, head_dim=8)))


def phi3() -> Any:
    from transformers import Phi3Config, Phi3ForCausalLM

    return seeded(lambda: Phi3ForCausalLM(Phi3Config(**SIZES)))


def llava(seed: int = 0) -> Any:
    """Return a LLaVA whose vision tower is as deep and as wide as its language model."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=NEURONS, num_hidden_layers=LAYERS, num_attention_heads=2,
        image_size=8, patch_size=4, projection_dim=8, initializer_range=0.3,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=LlamaConfig(**SIZES), image_token_index=IMAGE_TOKEN, vision_feature_layer=-1,
        image_seq_length=N_IMAGE, pad_token_id=PAD, tie_word_embeddings=False,
    )  # fmt: skip
    return seeded(lambda: LlavaForConditionalGeneration(config), seed)


def blip2() -> Any:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, OPTConfig
    from transformers import Blip2QFormerConfig as QFormerConfig
    from transformers import Blip2VisionConfig as VisionConfig

    sizes = {"hidden_size": WIDTH, "intermediate_size": NEURONS, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config=VisionConfig(**sizes, image_size=8, patch_size=4, initializer_range=0.3),
        qformer_config=QFormerConfig(**sizes, vocab_size=20, encoder_hidden_size=WIDTH, initializer_range=0.3),
        text_config=OPTConfig(**OPT_SIZES), num_query_tokens=N_IMAGE, image_token_index=IMAGE_TOKEN,
        initializer_range=0.3,
    )  # fmt: skip
    return seeded(lambda: Blip2ForConditionalGeneration(config))


class Plain(nn.Module):
    """What a user may write: no norms, no embedding, no names; blocks of `Sequential(Linear, GELU, Linear)`."""

    def __init__(self, inner: int = NEURONS) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, inner), nn.GELU(), nn.Linear(inner, WIDTH)) for _ in range(LAYERS)
        )
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, residual: Tensor) -> Tensor:
        for block in self.blocks:
            residual = residual + block(residual)
        return self.head(residual)


def plain(inner: int = NEURONS) -> Plain:
    model = seeded(lambda: Plain(inner))
    assert isinstance(model, Plain)
    return model


def prompt(*rows: list[int], seed: int = 0) -> dict[str, Tensor]:
    """Return a left-padded prompt with one random picture for each row: bos, the picture, then the row's tokens."""
    full = [[BOS, *[IMAGE_TOKEN] * N_IMAGE, *row] for row in rows]
    width = max(map(len, full))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in full])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in full])
    pixels = torch.randn(len(rows), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


def row_of(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """Return one row of a batch without its padding."""
    keep = inputs["attention_mask"][row].bool()
    alone = {key: inputs[key][row][keep][None] for key in ("input_ids", "attention_mask")}
    return alone | {"pixel_values": inputs["pixel_values"][row : row + 1]}


@torch.no_grad()
def generated(module: Any, inputs: dict[str, Tensor], n_new: int = 5, **options: Any) -> tuple[Tensor, Tensor]:
    """Return the `n_new` generated tokens `[batch, pos]` and each beam's logits `[batch * beams, pos, vocab]`."""
    settings: dict[str, Any] = {"do_sample": False, "pad_token_id": PAD, "disable_compile": True, "output_logits": True}
    settings["suppress_tokens"] = [IMAGE_TOKEN]  # as every real model has learned
    out = module.generate(
        **inputs, **(settings | options), min_new_tokens=n_new, max_new_tokens=n_new, return_dict_in_generate=True
    )
    return out.sequences[:, -n_new:], torch.stack(out.logits, dim=1)


def weights_hash(module: nn.Module) -> str:
    """Return the SHA-256 of every weight and buffer."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype}".encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def hooks_of(module: nn.Module) -> list[Any]:
    """Return every hook on the module and those below it."""
    return [
        hook
        for one in module.modules()
        for hooks in (one._forward_pre_hooks, one._forward_hooks, one._backward_hooks, one._backward_pre_hooks)
        for hook in hooks.values()
    ]


def our_hooks(module: nn.Module) -> list[Any]:
    """Return kedit's hooks among them."""
    return [hook for hook in hooks_of(module) if isinstance(hook, Hook | Forgotten)]


def state_of(module: nn.Module) -> tuple[object, ...]:
    """Return what an edit must leave as it was: weights, gradients asked for, gradients made, hooks, mode."""
    parameters = list(module.parameters())
    return (
        weights_hash(module),
        tuple(one.requires_grad for one in parameters),
        tuple(one.grad is None for one in parameters),
        tuple(map(id, hooks_of(module))),
        module.training,
    )
