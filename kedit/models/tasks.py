"""What a model was made for, as its configuration says, and the class of transformers that loads it."""

from difflib import get_close_matches
from typing import Any, Literal, get_args

Task = Literal["image-text-to-text", "audio-text-to-text", "seq2seq", "causal", "masked"]
"""The kinds of models that kedit loads; the first two have a processor, the others a tokenizer."""
LOADERS: tuple[tuple[Task, str, str], ...] = (
    ("image-text-to-text", "AutoModelForImageTextToText", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"),
    ("audio-text-to-text", "AutoModelForMultimodalLM", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"),
    ("seq2seq", "AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
    ("causal", "AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    ("masked", "AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
)
"""The class that loads a task, and transformers' table of its models; an architecture is looked up in this order."""


class TaskError(ValueError):
    """There is no such task, or the model is for none."""


def chosen_task(described: Any, task: str | None, name: str) -> Task:
    """Return `task`, or without one what the model called `name` was made for.

    Args:
        described: The model's configuration: its `architectures`, or in a folder with code of its own its `auto_map`.
        task: One of the tasks, or None.
        name: Of the model, for errors.

    Raises:
        TaskError: There is no such task, or the model is none that writes or completes text.
    """
    if task is not None:
        return checked(task)
    made_for = next(iter(getattr(described, "architectures", None) or ()), None)
    found = _by_architecture(made_for) if made_for else _by_type(described)
    own = getattr(described, "auto_map", None) or {}
    found = found or next((one for one, loader, _ in LOADERS if loader in own), None)
    if found is None:
        raise TaskError(
            f"model `{name}` is a {made_for or type(described).__name__}, which transformers lists under none of "
            f"{', '.join(get_args(Task))}; if it is one of these, say so with `task`"
        )
    # Some models of sound stand among the encoder-decoders, though they read it in one sequence with the text.
    sounds = found == "seq2seq" and not described.is_encoder_decoder and hasattr(described, "audio_config")
    return "audio-text-to-text" if sounds else found


def checked(task: str) -> Task:
    """Return `task` if there is such a one; a TaskError names the nearest."""
    for one in get_args(Task):
        if task == one:
            found: Task = one
            return found
    near = get_close_matches(task, get_args(Task), n=1, cutoff=0.4)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    raise TaskError(f"`task` is one of {', '.join(get_args(Task))}, got {task!r}{hint}")


def loader(task: Task, described: Any) -> Any:
    """Return the class of transformers whose `from_pretrained` loads a model for `task`, or raise a TaskError."""
    import transformers

    named, table = next((one, table) for kind, one, table in LOADERS if kind == task)
    own = getattr(described, "auto_map", None) or {}
    if task != "audio-text-to-text" and described.model_type not in _table(table) and named not in own:
        raise TaskError(f"transformers has no model of type `{described.model_type}` for the task {task}")
    if task == "audio-text-to-text" and described.model_type not in _table(LOADERS[1][2]):
        named = "AutoModelForSeq2SeqLM"
    return getattr(transformers, named)


def _by_architecture(architecture: str) -> Task | None:
    for task, _, table in LOADERS:
        for listed in _table(table).values():
            if architecture == listed or (isinstance(listed, tuple) and architecture in listed):
                return task
    return None


def _by_type(described: Any) -> Task | None:
    return next((task for task, _, table in LOADERS if described.model_type in _table(table)), None)


def _table(name: str) -> dict[str, Any]:
    from transformers.models.auto import modeling_auto

    return dict(getattr(modeling_auto, name))
