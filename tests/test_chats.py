"""A prompt is written as the model's own way writes it, in every family and whatever its tokenizer adds by itself."""

from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from kedit.doctor.diagnose import diagnose
from kedit.models.chat import own_tokens
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.tiny.families import FAMILIES, tiny
from kedit.prompts import Prompt
from tests.tiny_llava import processor, tiny_llava, wordpiece

TEXT = "{% for m in messages %}{{ m.content if m.content is string else m.content[-1].text }}{% endfor %}"
ADDED = {
    "[CLS] and [SEP]": "[CLS] $A [SEP]",
    "[CLS]": "[CLS] $A",
    "[SEP]": "$A [SEP]",
    "nothing": "$A",
}
"""What a tokenizer puts around a text by itself."""


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompts_of_a_family_are_those_of_its_own_way(family: str) -> None:
    found = diagnose(tiny(family), "chat").findings["chat"]
    assert (found.status, found.value) == ("SUPPORTED", 0), found.summary


def chatting(added: str, *, opens: bool, with_pictures: bool) -> HuggingFaceMLLM:
    """Return a model whose chats begin with `[CLS]` if it `opens` them, and whose tokenizer adds something."""
    tokenizer: Any = wordpiece()
    tokenizer.bos_token = "[CLS]"
    marks = [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=ADDED[added], special_tokens=[mark for mark in marks if mark[0] in ADDED[added]]
    )
    whole = processor(tokenizer, "[IMG]") if with_pictures else tokenizer
    whole.chat_template = ("[CLS]" if opens else "") + "the : " + TEXT + " :"
    return HuggingFaceMLLM(tiny_llava().module, whole)


@pytest.mark.parametrize("with_pictures", [True, False], ids=["processor", "tokenizer"])
@pytest.mark.parametrize("opens", [True, False], ids=["opened by the chat", "not opened"])
@pytest.mark.parametrize("added", ADDED)
def test_a_chat_has_the_marks_that_its_own_way_gives_it(added: str, opens: bool, with_pictures: bool) -> None:
    model, prompt = chatting(added, opens=opens, with_pictures=with_pictures), Prompt("describe this")
    ids = model.encode([prompt])["input_ids"][0].tolist()
    assert ids == own_tokens(model.processor, prompt)
    pieces = model.tokenizer.convert_ids_to_tokens(ids)
    whole = ["the", ":", "describe", "this", ":"]
    if opens:
        assert pieces == ["[CLS]", *whole]
    elif not with_pictures:
        assert pieces == whole
    else:
        assert pieces == ["[CLS]"] * ("[CLS]" in added) + whole + ["[SEP]"] * ("[SEP]" in added)


def test_a_processor_that_is_none_of_transformers_has_nothing_to_compare_with() -> None:
    class Own:
        chat_template = "{}"

    with pytest.raises(LookupError, match="a Own is none of transformers"):
        own_tokens(Own(), Prompt("hi"))


def test_an_own_way_that_fails_is_told_and_is_no_fault_of_the_prompts() -> None:
    model = chatting("nothing", opens=True, with_pictures=False)
    model.processor.chat_template = "[CLS]{{ messages[0].content }}"
    broken = model.processor.apply_chat_template

    def no_tokens(chat: Any, **how: Any) -> Any:
        if how["tokenize"]:
            raise NotImplementedError("text alone")
        return broken(chat, **how)

    model.processor.apply_chat_template = no_tokens
    found = diagnose(model, "chat").findings["chat"]
    assert found.status == "DEGRADED"
    assert found.why == "the processor's own way to write a prompt fails: NotImplementedError: text alone"
