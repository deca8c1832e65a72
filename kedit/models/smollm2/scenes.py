"""`smollm2_scenes`: kedit's vision tower and a trained projector in front of the language model as it was published."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kedit.fingerprints import of_file
from kedit.models.smollm2.language import NAME, language_folder, models_folder, written_whole
from kedit.store import digest

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
EYE = HERE / "eye.safetensors"
"""The weights of tower and projector, 16 bits."""
PROMPT = "Describe the picture."
IMAGE, SPARE = "<image>", "<reponame>"
"""The token that stands for a patch, and the unused one of the tokenizer whose number it takes."""
WEIGHTS = ["*.json", "*.safetensors"]
"""What is fetched of other weights: no code, no pickle."""
CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def scenes_folder(language: str | Path | None = None, *, download: bool = False) -> Path:
    """Return the folder of the whole model, which is put together on first use (270 MB in the store).

    Args:
        language: Other weights of the same language model, a folder or a hub id; by default what `kedit fetch smollm2`
            keeps.
        download: Whether a hub id may be fetched; otherwise only the local cache is searched.

    Raises:
        FileNotFoundError: There is no such folder, and no such model in the local cache.
        NotFetchedError: The language model was not fetched.
        ValueError: `language` is another model.
    """
    from safetensors.torch import load_file

    source = language_folder() if language is None else _weights(str(language), download=download)
    if language is not None:
        logger.warning("the figures of smollm2_scenes were measured on `%s`, not on `%s`", NAME, language)
    # What `fetch` keeps is known by the digest in its name; reading all of it would take a second at each load.
    content = NAME if language is None else [[file.name, of_file(file)] for file in sorted(source.iterdir())]
    key = digest([CHAT, of_file(EYE), content])[:12]
    folder = models_folder() / f"smollm2_scenes-{key}"
    if not folder.is_dir():
        module, processor = assemble(source, load_file(EYE))
        with written_whole(folder) as draft:
            module.save_pretrained(draft)
            processor.save_pretrained(draft)
    return folder


def assemble(language: Path, eye: Mapping[str, Tensor] | None = None) -> tuple[Any, Any]:
    """Return a LLaVA of tower, projector and language model, 16 bits, and its processor.

    No weight of the language model changes, and no token is added.

    Args:
        language: The folder of a Llama.
        eye: The weights of `model.vision_tower` and `model.multi_modal_projector`; by default those of `scenes` and
            untrained ones.

    Raises:
        ValueError: The eye is one for another language model.
    """
    from transformers import LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

    read: Any = LlavaForConditionalGeneration
    seeing = read.from_pretrained(HERE.parent / "scenes", local_files_only=True)
    speaking: Any = LlamaForCausalLM.from_pretrained(language, dtype=torch.bfloat16, local_files_only=True)
    processor = _processor(language)
    described = seeing.config.to_dict() | {"text_config": speaking.config.to_dict(), "tie_word_embeddings": True}
    described |= {"image_token_index": processor.image_token_id, "pad_token_id": processor.tokenizer.pad_token_id}
    config: Any = LlavaConfig(**described)
    module: Any = LlavaForConditionalGeneration(config)
    module.to(torch.bfloat16)
    module.model.language_model.load_state_dict(speaking.model.state_dict())
    module.lm_head.load_state_dict(speaking.lm_head.state_dict())
    module.model.vision_tower.load_state_dict(seeing.model.vision_tower.state_dict())
    if eye is not None:
        load_eye(module, eye)
    module.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    module.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return module, processor


def eye_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights of tower and projector by name, 16 bits."""
    parts = ("model.vision_tower.", "model.multi_modal_projector.")
    kept = {name: value for name, value in module.state_dict().items() if name.startswith(parts)}
    return {name: value.to(torch.bfloat16).contiguous() for name, value in kept.items()}


def load_eye(module: nn.Module, eye: Mapping[str, Tensor]) -> None:
    """Put the weights of tower and projector into `module`.

    Raises:
        ValueError: They do not fit.
    """
    own = eye_of(module)
    shapes, wanted = ({name: value.shape for name, value in one.items()} for one in (eye, own))
    if wrong := sorted({name for name, _ in shapes.items() ^ wanted.items()}):
        raise ValueError(f"the eye of smollm2_scenes does not fit this language model, as in `{wrong[0]}`")
    module.load_state_dict(dict(eye), strict=False)


def _weights(language: str, *, download: bool) -> Path:
    """Return the folder of a language model that is a folder, or an id on the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if (folder := Path(language).expanduser()).is_dir():
        return folder
    try:
        return Path(snapshot_download(language, allow_patterns=WEIGHTS, local_files_only=not download))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"no folder `{language}` and no language model of that name in the local cache; `model.download=true` "
            "fetches it from the hub"
        ) from error


def _processor(language: Path) -> Any:
    """Return the language model's tokenizer, with the image token, and the image processor of `scenes`."""
    from tokenizers import Tokenizer
    from transformers import LlavaProcessor, PreTrainedTokenizerFast

    text = (language / "tokenizer.json").read_text(encoding="utf-8")
    if f'"{SPARE}"' not in text:
        raise ValueError(f"the tokenizer in `{language}` has no spare token `{SPARE}`: it is no SmolLM2")
    core = Tokenizer.from_str(text.replace(f'"{SPARE}"', f'"{IMAGE}"'))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>",
        pad_token="<|endoftext|>", extra_special_tokens={"image_token": IMAGE}, padding_side="left",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    given: Any = LlavaProcessor
    pictures = given.from_pretrained(HERE.parent / "scenes", local_files_only=True).image_processor
    return LlavaProcessor(
        pictures, tokenizer, patch_size=8, vision_feature_select_strategy="default", image_token=IMAGE,
        num_additional_image_tokens=1, chat_template=CHAT,
    )  # fmt: skip
