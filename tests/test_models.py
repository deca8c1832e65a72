"""A model's words, tokens and batches are told apart rightly, and what cannot be loaded is said at once."""

import dataclasses
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from PIL import Image
from tiny_llava import byte_level, processor, tiny_llava, wordpiece
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel

from kedit.data import grammar
from kedit.models import shipped
from kedit.models.encoder import FolderEncoder, OwnLayers
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import load
from kedit.models.mllm import IMAGE, PADDING, TEXT, Generated
from kedit.models.planted import HOUSE_CONCEPT, STAR_CONCEPT, Planted, picture, without
from kedit.models.planted.builder import WORDS
from kedit.models.planted.pictures import GRAY
from kedit.prompts import Prompt
from kedit.samples import Concept, Question

SAMPLES = (
    picture("star", (5,)),
    picture("star and house", (1, 2), (9,)),
    picture("house", (), (3,)),
    picture("nothing"),
    picture("star and houses", (0,), (15, 14)),
)
IMAGES = [sample.image for sample in SAMPLES]
N_PATCHES = 16
UNICORN, STAR = Concept("unicorn"), Concept("star")


@pytest.fixture(scope="module")
def tiny() -> HuggingFaceMLLM:
    return tiny_llava()


@pytest.fixture(scope="module")
def bytewise(tiny: HuggingFaceMLLM) -> HuggingFaceMLLM:
    """The tiny model with a tokenizer of bytes, to tell words apart with, not to run."""
    return HuggingFaceMLLM(tiny.module, processor(byte_level(), "<image>"))


def written(model: HuggingFaceMLLM, text: str) -> Generated:
    return Generated(text, tuple(model.tokenizer(text, add_special_tokens=False).input_ids))


def pieces(model: HuggingFaceMLLM, tokens: tuple[int, ...]) -> list[str]:
    return [str(one) for one in model.tokenizer.convert_ids_to_tokens(list(tokens))]


# --- the planted model


def test_the_planted_model_says_what_is_shown_and_each_once(planted: Planted) -> None:
    captions = [one.text for one in planted.model.caption(IMAGES)]
    assert [set(text.split()) for text in captions] == [{"picture", *sample.objects} for sample in SAMPLES]
    assert all(len(text.split()) == len(set(text.split())) for text in captions)
    assert captions[:4] == [sample.references[0] for sample in SAMPLES[:4]]


@pytest.mark.parametrize("concept", [STAR_CONCEPT, HOUSE_CONCEPT])
def test_the_planted_counterfactual_lacks_the_concept_and_keeps_the_rest(planted: Planted, concept: Concept) -> None:
    pairs = [without(sample, concept) for sample in SAMPLES if sample.shows(concept)]
    captions = planted.model.caption([pair.image for pair in pairs])
    for pair, caption in zip(pairs, captions, strict=True):
        assert set(caption.text.split()) == {"picture", *pair.sample.objects} - {concept.name}
        inside = torch.tensor(pair.sample.region(concept))
        before, after = (torch.frombuffer(bytearray(one.tobytes()), dtype=torch.uint8).reshape(*inside.shape, 3)
                         for one in (pair.sample.image, pair.image))  # fmt: skip
        assert torch.equal(before[~inside], after[~inside])
        assert (after[inside] == torch.tensor(GRAY, dtype=torch.uint8)).all()


def test_the_planted_sets_are_four_different_neurons_of_a_frozen_model(planted: Planted) -> None:
    union = planted.star | planted.house | planted.decoy | planted.prior
    assert len(union) == 4
    assert not any(weight.requires_grad for weight in planted.model.module.parameters())
    assert planted.model.site().widths == {0: 8, 1: 8}


# --- captions and answers


def test_captions_of_a_batch_are_those_of_one_by_one(tiny: HuggingFaceMLLM, planted: Planted) -> None:
    for model in (tiny, planted.model):
        alone = dataclasses.replace(model, batch_size=1).caption(IMAGES)
        assert len({one.text for one in alone}) > 1
        for size in (2, 5, 16):
            assert dataclasses.replace(model, batch_size=size).caption(IMAGES) == alone


def test_a_caption_is_its_tokens_without_special_ones(tiny: HuggingFaceMLLM, planted: Planted) -> None:
    for model in (tiny, planted.model):
        for one in model.caption(IMAGES):
            assert one.text == model.tokenizer.decode(list(one.tokens))
            assert not set(one.tokens) & set(model.tokenizer.all_special_ids)
            assert len(one.tokens) <= model.max_new_tokens


def test_captioning_nothing_is_no_caption_and_a_bar_counts_batches(planted: Planted) -> None:
    bars: list[tuple[int, int, str]] = []

    def progress(items: list[object], total: int, what: str) -> list[object]:
        bars.append((len(items), total, what))
        return items

    model = dataclasses.replace(planted.model, batch_size=2)
    assert model.caption([]) == []
    model.caption(IMAGES, progress=progress)  # type: ignore[arg-type]
    assert bars == [(3, 3, "captions")]


def test_a_picture_without_color_channels_is_read_as_rgb(planted: Planted) -> None:
    gray = Image.new("L", (32, 32), 128)
    clear = SAMPLES[0].image.convert("RGBA")
    assert [one.text for one in planted.model.caption([gray, clear])] == ["picture", "picture star"]


def test_answers_come_in_the_order_of_the_questions_with_and_without_pictures(planted: Planted) -> None:
    model = dataclasses.replace(planted.model, batch_size=2)
    asked = [
        Question("what is this :", "a star", "picture", SAMPLES[0]),
        Question("what is :", "", "text"),
        Question("what is this :", "a house", "picture", SAMPLES[2]),
        Question("the picture :", "", "text"),
        Question("what is this :", "a star and a house", "picture", SAMPLES[1]),
    ]
    answers = model.answer(asked)
    assert answers == ["picture star", "picture", "picture house", "picture", "picture star house"]
    assert answers == [model.answer([one])[0] for one in asked]
    assert model.answer([]) == []


def test_the_chat_format_of_a_processor_is_used_where_it_has_one(tiny: HuggingFaceMLLM) -> None:
    chat = processor(wordpiece(), "[IMG]")
    chat.chat_template = (
        "[CLS]{% for m in messages %}the : {% for c in m.content %}"
        "{% if c.type == 'image' %}[IMG] {% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %} a :"
    )
    model = HuggingFaceMLLM(tiny.module, chat, prompt="describe this")
    kept = model.teacher_forced(IMAGES[:1], [()]).inputs["input_ids"][0].tolist()
    words = [piece for piece in pieces(model, tuple(kept)) if piece not in ("[CLS]", "[SEP]")]
    assert words == ["the", ":", *["[IMG]"] * N_PATCHES, "describe", "this", "a", ":"]


@pytest.mark.parametrize("opens", [True, False])
def test_a_chat_that_begins_with_a_special_token_begins_with_it_once(tiny: HuggingFaceMLLM, opens: bool) -> None:
    # SmolLM2's chats begin with `<|im_start|>`, its `bos_token`, which its tokenizer puts before no text.
    tokenizer = wordpiece()
    tokenizer.bos_token = "[CLS]"
    if not opens:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    chat = processor(tokenizer, "[IMG]")
    chat.chat_template = "[CLS]the : {% for m in messages %}{{ m.content[-1].text }}{% endfor %}"
    model = HuggingFaceMLLM(tiny.module, chat)
    ids = model.encode([Prompt("describe this")])["input_ids"][0].tolist()
    assert [piece for piece in pieces(model, tuple(ids)) if piece != "[SEP]"] == [
        "[CLS]",
        "the",
        ":",
        "describe",
        "this",
    ]


# --- mentions


@pytest.mark.parametrize(
    ("text", "concept", "prefix", "word"),
    [
        ("a unicorn on the sky", UNICORN, ["a"], ["un", "##ico", "##rn"]),
        ("unicorns .", UNICORN, [], ["un", "##ico", "##rn", "##s"]),
        ("the stars and a star", STAR, ["the"], ["stars"]),
        ("a starfish , a red star", STAR, ["a", "star", "##fish", ",", "a", "red"], ["star"]),
        ("red star : blue star", Concept("red star"), [], ["red", "star"]),
        ("a house", Concept("home", ("house", "star")), ["a"], ["house"]),
    ],
)
def test_a_mention_is_the_tokens_of_the_first_whole_word(
    tiny: HuggingFaceMLLM, text: str, concept: Concept, prefix: list[str], word: list[str]
) -> None:
    mention = tiny.mention(written(tiny, text), concept)
    assert mention is not None
    assert (pieces(tiny, mention.prefix), pieces(tiny, mention.word)) == (prefix, word)


@pytest.mark.parametrize("text", ["", "a starfish", "the blue sky", "unicorn"])
def test_a_caption_without_the_word_has_no_mention(tiny: HuggingFaceMLLM, text: str) -> None:
    assert tiny.mention(written(tiny, text), STAR) is None


@pytest.mark.parametrize(
    ("text", "concept", "prefix", "word"),
    [
        ("a star.", "star", ["a"], ["Ġstar"]),
        ("star", "star", [], ["star"]),
        ("a house", "house", ["a", "Ġ"], ["h", "o", "u", "s", "e"]),
        ("“star”s", "star", ["â", "Ģ", "ľ"], ["star"]),
        ("a 星.", "星", ["a", "Ġ"], ["æ", "ĺ", "Ł"]),
        ("🌟 star", "star", ["ð", "Ł", "Į", "Ł"], ["Ġstar"]),
    ],
)
def test_a_mention_among_bytes_has_all_its_bytes_and_no_others(
    bytewise: HuggingFaceMLLM, text: str, concept: str, prefix: list[str], word: list[str]
) -> None:
    mention = bytewise.mention(written(bytewise, text), Concept(concept))
    assert mention is not None
    assert (pieces(bytewise, mention.prefix), pieces(bytewise, mention.word)) == (prefix, word)


def test_forcing_replaces_a_caption_that_does_not_name_the_concept_only(tiny: HuggingFaceMLLM) -> None:
    without_it = tiny.mention(written(tiny, "the blue sky"), UNICORN, force=True)
    assert without_it is not None
    assert pieces(tiny, without_it.prefix) == ["a", "picture", "of"]
    assert pieces(tiny, without_it.word) == ["un", "##ico", "##rn"]
    named = written(tiny, "the unicorn")
    assert tiny.mention(named, UNICORN, force=True) == tiny.mention(named, UNICORN)


def test_a_word_that_the_tokenizer_cannot_spell_has_no_mention_even_if_forced(planted: Planted) -> None:
    assert planted.model.mention(Generated("picture", (7,)), Concept("zebra"), force=True) is None


# --- teacher-forced batches


PREFIXES: list[tuple[int, ...]] = [(), (7, 5), (7, 5, 6, 8), (7,)]


def test_a_teacher_forced_batch_is_padded_on_the_left_and_says_what_each_position_holds(planted: Planted) -> None:
    batch = planted.model.teacher_forced(IMAGES[:4], PREFIXES)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    prompt = [WORDS.index(word) for word in ("<bos>", *["<image>"] * N_PATCHES, "describe", "the", "picture", ":")]
    newline_and_prompt = planted.model.teacher_forced(IMAGES[:1], [()]).inputs["input_ids"][0].tolist()
    assert [token for token in newline_and_prompt if token in prompt] == prompt
    for row, prefix in enumerate(PREFIXES):
        n_padding = 4 - len(prefix)
        whole = [*newline_and_prompt, *prefix]
        assert ids[row].tolist() == [WORDS.index("<pad>")] * n_padding + whole
        assert mask[row].tolist() == [0] * n_padding + [1] * len(whole)
        assert batch.token_types[row].tolist() == [PADDING] * n_padding + [
            IMAGE if token == WORDS.index("<image>") else TEXT for token in whole
        ]
    assert (batch.token_types == IMAGE).sum(1).tolist() == [N_PATCHES] * 4


def test_the_logits_of_a_teacher_forced_batch_are_those_of_one_by_one(tiny: HuggingFaceMLLM) -> None:
    with torch.no_grad():
        together = tiny.logits(tiny.teacher_forced(IMAGES[:4], PREFIXES), n_last=3)
        alone = [
            tiny.logits(tiny.teacher_forced([image], [prefix]), n_last=3)
            for image, prefix in zip(IMAGES[:4], PREFIXES, strict=True)
        ]
    assert together.shape == (4, 3, len(tiny.tokenizer))
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_forcing_the_models_own_caption_predicts_the_caption(tiny: HuggingFaceMLLM, planted: Planted) -> None:
    for model in (planted.model, tiny):
        captions = [one.tokens for one in model.caption(IMAGES)]
        for n in range(max(map(len, captions))):
            left = [(image, tokens) for image, tokens in zip(IMAGES, captions, strict=True) if len(tokens) > n]
            with torch.no_grad():
                logits = model.logits(
                    model.teacher_forced([image for image, _ in left], [tokens[:n] for _, tokens in left])
                )
            assert logits[:, -1].argmax(-1).tolist() == [tokens[n] for _, tokens in left]


@pytest.mark.parametrize("around", [torch.no_grad, torch.enable_grad])
def test_logits_have_a_graph_only_if_gradients_are_on(
    tiny: HuggingFaceMLLM, around: Callable[[], torch.no_grad]
) -> None:
    with around():
        assert tiny.logits(tiny.teacher_forced(IMAGES[:1], [()])).requires_grad == torch.is_grad_enabled()


def test_a_model_whose_configuration_names_no_image_token_says_so(tiny: HuggingFaceMLLM) -> None:
    bare = HuggingFaceMLLM(tiny.module.get_submodule("model.language_model"), tiny.processor)
    with pytest.raises(LookupError, match="configuration of LlamaModel names no `image_token_id`"):
        _ = bare.image_token


# --- loading


@pytest.fixture(scope="module")
def saved(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "own-model"
    planted.model.module.save_pretrained(folder)
    planted.model.processor.save_pretrained(folder)
    return folder


def test_a_saved_model_says_the_same_when_loaded(planted: Planted, saved: Path) -> None:
    model = load(saved, prompt=planted.model.prompt, max_new_tokens=6)
    assert (model.name, model.batch_size) == ("own-model", 8)
    assert model.caption(IMAGES) == planted.model.caption(IMAGES)
    assert load(saved, name="mine").name == "mine"


def test_a_model_of_half_precision_is_computed_in_32_bit_on_a_cpu(saved: Path, tmp_path: Path) -> None:
    load(saved).module.half().save_pretrained(tmp_path / "half")  # type: ignore[operator]
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(saved / name, tmp_path / "half")
    assert {weight.dtype for weight in load(tmp_path / "half").module.parameters()} == {torch.float32}


def test_a_shipped_model_is_asked_what_it_was_trained_with_and_others_the_usual(saved: Path) -> None:
    assert load("scenes_soft").prompt == grammar.CAPTION_PROMPT
    assert load(saved).prompt == "Describe this image."
    assert load("scenes_soft", prompt="what is this :").prompt == "what is this :"


def test_a_folder_in_the_home_directory_may_be_written_with_a_tilde(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    assert load("~/own-model").name == "own-model"


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./nowhere", "~/nowhere"])
def test_a_missing_folder_is_named_beside_the_shipped_models(path: str) -> None:
    shipped = r"no model folder `.*nowhere.*`; shipped models: scenes, scenes_draw, scenes_plain"
    with pytest.raises(FileNotFoundError, match=shipped):
        load(path)


def _emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _only(*names: str) -> Callable[[Path], None]:
    def keep(folder: Path) -> None:
        for file in folder.iterdir():
            if file.name not in names:
                file.unlink()

    return keep


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(_emptied, id="empty"),
        pytest.param(_only("config.json", "model.safetensors"), id="no processor"),
        pytest.param(_only("processor_config.json", "tokenizer.json", "tokenizer_config.json"), id="no configuration"),
        pytest.param(lambda folder: (folder / "model.safetensors").unlink(), id="no weights"),
        pytest.param(lambda folder: (folder / "model.safetensors").write_bytes(b"half a file"), id="cut weights"),
        pytest.param(lambda folder: (folder / "config.json").write_text("{"), id="cut configuration"),
        pytest.param(lambda folder: (folder / "config.json").write_text('{"model_type": "news"}'), id="unknown type"),
    ],
)
def test_a_spoiled_folder_is_named_with_what_is_wrong_in_one_line(
    saved: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "spoiled"))
    spoil(folder)
    with pytest.raises(
        FileNotFoundError, match=r"the folder of model `.*spoiled` is incomplete or broken: .{10}"
    ) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_a_shipped_model_that_is_not_there_is_told_from_a_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "HERE", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"model `scenes` did not come with this copy of kedit: no folder `.*scenes`"
    ):
        load("scenes")
    (tmp_path / "scenes").mkdir()
    with pytest.raises(FileNotFoundError, match=r"the folder of model `.*scenes` is incomplete or broken"):
        load("scenes")


@pytest.mark.parametrize("path", ["nobody/no-model", "no-model", "a/b/c", "no model"])
@pytest.mark.parametrize("offline", [True, False])
def test_an_unknown_hub_id_is_refused_at_once_without_the_network(
    path: str, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def refuse(*address: object, **options: object) -> None:
        asked.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    began = time.perf_counter()
    with pytest.raises(FileNotFoundError, match=f"no folder `{path}` and no model of that name.*`model.download=true`"):
        load(path)
    assert time.perf_counter() - began < 15
    assert not asked


# --- encoders


def test_a_models_own_layers_are_its_hidden_states(planted: Planted, tiny: HuggingFaceMLLM) -> None:
    for model, text, specials in ((planted.model, "picture star", (1, 0)), (tiny, "a unicorn .", (1, 1))):
        encoder = OwnLayers(model, layer=1)
        assert encoder.specials == specials
        (found,) = encoder.encode([text])
        ids = model.tokenizer(text, return_tensors="pt").input_ids
        language = model.module.get_submodule("model.language_model")
        with torch.no_grad():
            expected = language(input_ids=ids, output_hidden_states=True).hidden_states[1][0]
        assert found.shape == (ids.shape[1], model.module.config.text_config.hidden_size)
        assert torch.equal(found, expected)


def test_an_encoding_does_not_depend_on_the_other_texts_and_has_no_graph(tiny: HuggingFaceMLLM) -> None:
    encoder = OwnLayers(tiny)
    texts = ["a red star and a unicorn", "", "star", "zebra"]
    together = encoder.encode(texts)
    assert [len(one) for one in together] == [8 + 2, 0 + 2, 1 + 2, 1 + 2]
    for text, found in zip(texts, together, strict=True):
        assert torch.equal(encoder.encode([text])[0], found)
        assert not found.requires_grad
        assert found.dtype == torch.float32
    assert encoder.encode([]) == []


def test_the_encoder_says_its_name_and_layer(planted: Planted) -> None:
    assert OwnLayers(planted.model, 1).name == "planted, hidden state 1 of its language model"


def test_an_encoder_from_a_folder_is_the_model_in_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = wordpiece()
    small = BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    bert = BertModel(small).eval()
    folder = tmp_path / "small-bert"
    bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    encoder = FolderEncoder(str(folder), layer=1)
    assert encoder.name == "small-bert, hidden state 1"
    assert encoder.specials == (1, 1)
    (found,) = encoder.encode(["a unicorn"])
    with torch.no_grad():
        ids = tokenizer("a unicorn", return_tensors="pt").input_ids
        expected = bert(input_ids=ids, output_hidden_states=True).hidden_states[1][0]
    assert found.shape == (1 + 4 + 1, 8)
    torch.testing.assert_close(found, expected)


def test_an_encoder_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no encoder folder `.*nowhere` for BERTScore"):
        FolderEncoder(str(tmp_path / "nowhere"), 8)
