"""The locators that kedit ships, by the names of their files in `conf/locate`."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from kedit.paths import conf_dir

OF_TEXTS = "two_stage_answer"
"""What texts, which have no image tokens, are located with if nothing was chosen."""
FORMER = {"mm_neurons": "pan_multimodal", "mmneuron": "domain_entropy"}
"""What locators were called up to 0.7, which differed by a letter; in `conf/locate` they are aliases."""


def shipped(name: str, key: str = "methods") -> Any:
    """Return the locator of `conf/locate/<name>.yaml`, as `kedit run locate=<name>` builds it; `key` asked for it.

    Raises:
        LookupError: There is none of that name.
    """
    import yaml

    return _build(yaml.safe_load(file_of(name, key).read_text(encoding="utf-8")), {})


def file_of(name: str, key: str = "methods") -> Path:
    """Return the file of a shipped locator; a LookupError says that what `key` names is none."""
    name = FORMER.get(name, name)
    known = {path.stem: path for path in sorted((conf_dir() / "locate").glob("*.yaml")) if path.stem not in FORMER}
    if name not in known:
        near = get_close_matches(name, known) or list(known)
        raise LookupError(f"`{key}`: no method `{name}`; nearest: {', '.join(near)}")
    return known[name]


def _build(node: Any, outer: Mapping[str, Any]) -> Any:
    """Return what a node of a file describes; `${..key}` is the `key` of the node around it, `outer`."""
    if isinstance(node, list):
        return [_build(item, outer) for item in node]
    if not isinstance(node, dict):
        return outer[node[4:-1]] if isinstance(node, str) and node.startswith("${..") else node
    values = {key: _build(value, node if isinstance(value, dict) else outer) for key, value in node.items()}
    target = values.pop("_target_", None)
    return values if target is None else resolve_name(target)(**values)
