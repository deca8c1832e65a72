"""A two-layer language model that has learned a few facts by heart, and the file of them."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import wrap
from tests.tiny import seeded

CAPITALS = {
    "Japan": "Tokyo", "Germany": "Berlin", "Italy": "Rome", "China": "Beijing", "France": "Paris", "Peru": "Lima",
}  # fmt: skip
OPPOSITES = {"hot": "cold", "big": "small", "up": "down", "good": "bad"}
OF_CAPITALS = ("the capital of {} is", "the capital city of {} is", "in {} the capital is", "the first city of {} is")
OF_OPPOSITES = ("the opposite of {} is", "the contrary of {} is")
SPECIALS = ("<pad>", "<eos>", "<unk>")
STEPS = 120


def sentences() -> list[tuple[str, str]]:
    """Return every way to ask with its answer."""
    kinds = ((OF_CAPITALS, CAPITALS), (OF_OPPOSITES, OPPOSITES))
    return [(way.format(one), answer) for ways, facts in kinds for way in ways for one, answer in facts.items()]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of words, with a chat format."""
    words = sorted({word for pair in sentences() for word in " ".join(pair).split()} | {"user", ":", "."})
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*SPECIALS, *words])}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(list(SPECIALS))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left",
        model_max_length=64, chat_template="{% for one in messages %}user : {{ one.content }} {% endfor %}",
    )  # fmt: skip


def learned() -> tuple[Any, PreTrainedTokenizerFast]:
    """Return the model and its tokenizer; it answers every one of `sentences` right."""
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    module = seeded(lambda: LlamaForCausalLM(config))
    texts = [f"{asked} {answer} . <eos>" for asked, answer in sentences()]
    ids = words(texts, padding=True, padding_side="right", return_tensors="pt").input_ids
    with torch.enable_grad():
        module.requires_grad_(True)
        step = torch.optim.AdamW(module.parameters(), lr=1e-2)
        for _ in range(STEPS):
            logits = module(input_ids=ids[:, :-1]).logits
            loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)
            step.zero_grad()
            loss.backward()
            step.step()
    module.requires_grad_(False)
    return module, words


def knows(template: Any = "none") -> HuggingFaceMLLM:
    """Return the model as kedit sees it."""
    return wrap(*learned(), name="knows", max_new_tokens=4, template=template)


def line(country: str, **changes: Any) -> dict[str, Any]:
    """Return the line of a capital; a change to None takes a key away."""
    others = [one for one in CAPITALS if one != country]
    told = {
        "id": country,
        "kind": "capital",
        "prompt": OF_CAPITALS[0].format(country),
        "answer": CAPITALS[country],
        "subject": country,
        "other_subjects": others[:2],
        "paraphrases": [way.format(country) for way in OF_CAPITALS[1:]],
        "neighbours": [{"prompt": OF_CAPITALS[0].format(one), "answer": CAPITALS[one]} for one in others[2:4]],
    }
    return {key: value for key, value in (told | changes).items() if value is not None}


def opposite(word: str) -> dict[str, Any]:
    """Return the line of an opposite, whose counterfactual is written out."""
    other = next(one for one in OPPOSITES if one != word)
    asked, *more = (way.format(word) for way in OF_OPPOSITES)
    return {
        "prompt": asked, "answer": OPPOSITES[word], "paraphrases": more,
        "counter_prompt": OF_OPPOSITES[0].format(other),
    }  # fmt: skip


def written(folder: Path, *lines: dict[str, Any]) -> Path:
    """Write a file of facts and return its path; by default of all of them."""
    told = lines or (*map(line, CAPITALS), *map(opposite, OPPOSITES))
    file = folder / "facts.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in told), encoding="utf-8")
    return file
