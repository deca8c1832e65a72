"""Run the notebooks from top to bottom and keep what they show: `python -m experiments.notebooks.run [01 ...]`."""

import base64
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",  # how far a job is concerns whoever waits for it, not whoever reads the page
    "PYTHONWARNINGS": "ignore:IProgress not found",  # widgets are for whoever waits, too
    "OMP_NUM_THREADS": "1",
}


def notebooks() -> dict[str, Path]:
    """Return the notebooks by their numbers."""
    return {path.name[:2]: path for path in sorted(HERE.glob("[0-9][0-9]_*.ipynb"))}


def execute(path: Path, folder: Path) -> Any:
    """Return a notebook with what its cells show, executed in an empty `folder` by a kernel of this Python.

    What depends on the day or the machine is left out.

    Raises:
        CellExecutionError: A cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    settings = {"IPYTHONDIR": str(folder / ".ipython"), "PYTHONPATH": str(ROOT)}
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources=where, record_timing=False, coalesce_streams=True
    )
    client.execute(env={**os.environ, **QUIET, **settings})
    for output in (one for cell in notebook.cells for one in cell.get("outputs", ())):
        if png := output.get("data", {}).get("image/png"):
            output.data["image/png"] = shrink(png)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def shrink(png: str) -> str:
    """Return a picture with at most 256 colors, a third of the bytes; both in base64."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        few, target = image.convert("RGB").quantize(256, dither=Image.Dither.NONE), io.BytesIO()
    few.save(target, "PNG", optimize=True)
    return base64.b64encode(target.getvalue()).decode("ascii")


def main(numbers: list[str]) -> None:
    """Execute the notebooks with these numbers, all of them if there are none, and write each where it was."""
    import nbformat

    for number in numbers or notebooks():
        path = notebooks()[number]
        with tempfile.TemporaryDirectory() as scratch:
            nbformat.write(execute(path, Path(scratch)), path)
        print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
