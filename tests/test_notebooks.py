"""The notebooks: what they show is kept whole and clean, they run, and what their text claims is so."""

import ast
import base64
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import kedit
from experiments.notebooks.run import execute, notebooks
from kedit.models.shipped import HERE

pytestmark = pytest.mark.skipif(
    not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not in this checkout"
)

MOST_BYTES = 400_000
ELSEWHERE = re.compile(r"(?<![\w.])/(work|root|home|tmp|Users|usr|var)/|site-packages|[A-Z]:\\\\|object at 0x")
"""What only one machine, or one hour, has: paths and addresses."""
IN_PAGES = re.compile(r"data:image/png;base64,([\w+/=]+)")
NAMES = list(notebooks())


@dataclass(frozen=True)
class Shown:
    """What the code cells of a notebook show, in order."""

    cells: list[Mapping[str, Any]]

    @classmethod
    def of(cls, notebook: Mapping[str, Any]) -> "Shown":
        return cls([cell for cell in notebook["cells"] if cell["cell_type"] == "code"])

    @property
    def texts(self) -> list[str]:
        """Of each cell all text: of streams, of pages without their markup and pictures, and plain."""
        return ["\n".join(map(text_of, cell["outputs"])) for cell in self.cells]

    @property
    def pictures(self) -> int:
        """How many pictures there are; all of them open."""
        content = json.dumps([cell["outputs"] for cell in self.cells])
        found = [png for cell in self.cells for one in cell["outputs"] if (png := one.get("data", {}).get("image/png"))]
        for png in [*found, *IN_PAGES.findall(content)]:
            assert min(Image.open(io.BytesIO(base64.b64decode(joined(png)))).size) >= 32
        return len(found) + len(IN_PAGES.findall(content))


def joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def text_of(output: Mapping[str, Any]) -> str:
    data = output.get("data", {})
    page = re.sub(r"<img[^>]*>", "", joined(data.get("text/html", "")))
    return "\n".join(
        [joined(output.get("text", "")), re.sub(r"<[^>]+>", " ", page), joined(data.get("text/plain", ""))]
    )


def share(text: str, what: str) -> float:
    """Return the first figure behind `what`."""
    found = re.search(rf"{re.escape(what)}\s+(\d\.\d\d)", text)
    assert found is not None, what
    return float(found[1])


def neurons(text: str) -> int:
    found = re.search(r"Zero\(\) of (\d+) neurons", text)
    assert found is not None
    return int(found[1])


def check_first_edit(shown: Shown) -> None:
    _, named, result, _, located, _, edited = shown.texts
    assert all("star" in caption for caption in named.strip().splitlines()[:4])
    assert "The edit suppresses `star`" in result and share(result, "concept no longer named") == 1.0
    assert "n = 8" in result and 1 <= neurons(result) <= 64
    assert f"{neurons(result)} neurons at `mid`" in located
    inside, after = edited.strip().splitlines()[:2]
    assert "star" not in inside and "star" in after


def check_own_model_and_pictures(shown: Shown) -> None:
    first, folder, _, checks, pair, result, _ = shown.texts
    assert json.loads(first)["objects"][0]["name"] == "star"
    assert "28 of 28 pictures can be used" in folder
    assert checks.count("SUPPORTED") == 12 and "ERROR" not in checks and "WRONG" not in checks  # as a page and as text
    assert "without star" in pair
    assert "used are 5 (of 24) to locate with, 11 (of 60) as target" in result
    assert "The edit suppresses `star`" in result and share(result, "concept no longer named") > 0.8


def check_which_method(shown: Shown) -> None:
    compared, _, lucky, planted = shown.texts
    assert "`act_unembed` is the most selective" in compared
    assert share(compared, "act_unembed") > 0.7 and share(compared, "activation") < 0.2 > share(compared, "two_stage")
    in_common, drop = share(lucky, "in common:"), share(lucky, "mention_drop:")
    assert 0.6 < in_common < 0.75 and drop > 0.5  # a fifth of 64 neurons are others, and they take the word along
    means = {name: share(planted, f" {name} ") for name in ("two_stage", "wide", "activation", "act_unembed")}
    assert max(means, key=lambda name: means[name]) == "two_stage" and means["act_unembed"] < 0.5
    assert "late: behind `act_unembed`" in planted and "distributed: behind `wide`" in planted


def check_thresholds(shown: Shown) -> None:
    _, chosen, swept, _, drops, again = shown.texts
    assert "NeuronSet(8 neurons" in chosen and "the best 10 of 2,048 scores" in chosen
    assert "Most selective, act_unembed TopK(k=64)" in swept
    assert re.findall(r"(\d+) neurons: .*n = (\d+)", drops) == [("4", "16"), ("16", "16"), ("64", "16")]
    assert (share(drops, "\n16 neurons:"), share(drops, "\n64 neurons:")) == (0.19, 0.94)  # 3 and 15 of 16
    assert re.search(r"TopK\(k=16\).*?(yes|no)", swept, re.DOTALL)[1] == "no"  # type: ignore[index]
    assert "The edit suppresses `star`" in again and share(again, "mention_drop") > 0.8


def check_models_that_draw(shown: Shown) -> None:
    drawn, said, result, layers = shown.texts
    assert "Drawings('a yellow star and a blue circle'" in drawn
    assert "star" in said and "circle" in said and "a red house" in said
    rows = {name: list(map(float, re.findall(r"│ +(\d\.\d\d) \[", row))) for name, row in in_rows(result).items()}
    by_image, by_text, random = rows["captions that"]
    assert by_text > 0.7 and by_image == random == 0
    assert max(rows["drawings without"]) < 0.3
    assert "3 of them are T-neurons as well" in result and "No evidence that the edit takes `star` out" in result
    assert "Layer 0 holds the most neurons" in layers


def in_rows(table: str) -> dict[str, str]:
    """Return the first line of each row of a table by how it begins."""
    lines = [line for line in table.splitlines() if line.startswith("│ ")]
    return {line[2:].split("│")[0].strip(): line for line in lines}


def check_ship_an_edit(shown: Shown) -> None:
    verdict, exported, _, elsewhere, measured, card = shown.texts
    assert verdict.startswith("The edit suppresses `star`")
    assert "logits identical to the bit, captions equal on 8 of 8" in exported
    said = dict(re.findall(r"^(.+?): +(.+)$", elsewhere, re.MULTILINE))
    assert "star" in said["base"] and "star" not in said["adapted"] and said["kedit was loaded"] == "False"
    assert share(measured, "concept no longer named") == share(verdict, "mention_drop") == 1.0
    assert "an edit of `without-star`" in card


CLAIMS: Mapping[str, tuple[Callable[[Shown], None], int]] = {
    "01": (check_first_edit, 4),
    "02": (check_own_model_and_pictures, 4),
    "03": (check_which_method, 3),
    "04": (check_thresholds, 3),
    "05": (check_models_that_draw, 3),
    "06": (check_ship_an_edit, 2),
}
"""What the text of each notebook says, and how many pictures it shows at least."""


def kept(name: str) -> dict[str, Any]:
    return json.loads(notebooks()[name].read_text(encoding="utf-8"))


def check(notebook: Mapping[str, Any], name: str) -> None:
    claims, pictures = CLAIMS[name]
    claims(Shown.of(notebook))
    assert Shown.of(notebook).pictures >= pictures


def test_every_notebook_has_its_claims_and_its_line_in_the_list() -> None:
    assert list(CLAIMS) == NAMES
    page = (next(iter(notebooks().values())).parent / "README.md").read_text()
    assert all(f"]({path.name})" in page for path in notebooks().values())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_is_whole_in_order_and_of_no_machine(name: str) -> None:
    notebook, content = kept(name), notebooks()[name].read_text(encoding="utf-8")
    cells = Shown.of(notebook).cells
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell["outputs"]) for cell in cells) >= len(cells) - 1
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert "error" not in kinds and "execute_result" in kinds
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"} and "jupyter.widget" not in content
    found = ELSEWHERE.search(re.sub(r'"image/\w+": "[^"]*"', "", IN_PAGES.sub("", content)))
    assert found is None, found
    assert len(content.encode()) < MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_uses_what_kedit_makes_public_and_nothing_else_of_it(name: str) -> None:
    for cell in Shown.of(kept(name)).cells:
        code = "".join(cell["source"])
        tree = ast.parse(re.sub(r"^%%.*\n", "", code))
        for node in ast.walk(tree):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            source = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            assert not [one for one in (*names, source) if re.match(r"(kedit\.|hydra|omegaconf)", one)]
            assert source != "kedit"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "kedit":
                assert node.attr in kedit.__all__


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_is_what_the_text_claims(name: str) -> None:
    check(kept(name), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_does_what_its_text_claims(name: str, tmp_path: Path) -> None:
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package, reason=f"executing a notebook needs {package} (`make setup`)")
    check(execute(notebooks()[name], tmp_path), name)
