"""The wheel carries everything that `kedit run` needs, and claims only what it may."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from kedit import __version__

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

COMPOSE = """
import json, sys
from pathlib import Path
from hydra import compose, initialize_config_dir
import kedit
from kedit.paths import conf_dir

conf = conf_dir()
composed = []
with initialize_config_dir(str(conf), version_base="1.3"):
    for primary in sorted(conf.glob("*.yaml")):
        compose(primary.stem)
        composed.append(primary.stem)
print(json.dumps({"kedit": kedit.__file__, "conf": str(conf), "composed": composed}))
"""


def run(*words: str, **environment: str) -> str:
    """Return what a command prints; the failure of one shows what it said."""
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this checkout, without network and without an environment of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a clean folder."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q")
    run(*pip, "--no-index", "--no-deps", "--no-compile", "--target", str(target), str(wheel))
    return target


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def shipped(folder: str, *patterns: str) -> set[str]:
    """Return the checkout's files under `folder`, as paths from its root."""
    return {path.relative_to(ROOT).as_posix() for pattern in patterns for path in (ROOT / folder).rglob(pattern)}


def test_the_wheel_claims_one_top_level_name(wheel: Path) -> None:
    assert {name.partition("/")[0] for name in names_in(wheel)} == {"kedit", f"kedit-{__version__}.dist-info"}


def test_the_wheel_carries_code_weights_and_configuration_and_no_study(wheel: Path) -> None:
    wanted = shipped("kedit", "*.py", "*.json", "*.safetensors", "py.typed", "*.md")
    wanted |= {f"kedit/{name}" for name in shipped("conf", "*.yaml", "*.md")}
    assert "kedit/conf/run.yaml" in wanted
    assert wanted - names_in(wheel) == set()
    assert [name for name in names_in(wheel) if "experiments" in name] == []


def test_the_wheel_carries_the_license_and_no_litter(wheel: Path) -> None:
    names = names_in(wheel)
    assert f"kedit-{__version__}.dist-info/licenses/LICENSE" in names
    assert [name for name in names if "__pycache__" in name or name.startswith("kedit/tests")] == []


def test_every_command_composes_from_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    script = tmp_path / "compose_all.py"
    script.write_text(COMPOSE)
    found = json.loads(run(sys.executable, str(script), PYTHONPATH=str(installed)).splitlines()[-1])
    assert Path(found["kedit"]).is_relative_to(installed)
    assert Path(found["conf"]).is_relative_to(installed)
    assert {path.stem for path in (ROOT / "conf").glob("*.yaml")} == set(found["composed"])


def test_an_installed_wheel_finds_its_command(installed: Path) -> None:
    # `--cfg job` makes Hydra print what it composed and leave, before the command does any work.
    shown = run(sys.executable, "-m", "kedit", "run", "--cfg", "job", PYTHONPATH=str(installed))
    assert "concept:" in shown


def test_the_metadata_says_what_the_package_says(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"kedit-{__version__}.dist-info/METADATA").decode()
        scripts = archive.read(f"kedit-{__version__}.dist-info/entry_points.txt").decode()
    assert f"\nVersion: {__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "kedit = kedit.cli:main" in scripts


def test_the_citation_names_the_version_of_the_package() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["cff-version"], cited["version"]) == ("1.2.0", __version__)


def test_every_imported_package_is_declared() -> None:
    extras = [need for group in PROJECT["optional-dependencies"].values() for need in group]
    declared = {canonical(need) for need in [*PROJECT["dependencies"], *extras]}
    distributions = importlib.metadata.packages_distributions()
    undeclared = {
        name for name in third_party() if not {canonical(d) for d in distributions.get(name, [name])} & declared
    }
    assert undeclared == set()


def test_the_lock_file_names_a_version_that_is_admitted_of_all_but_torch() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line[0].isalnum()]
    locked = {canonical(line): line.partition(";")[0].partition("==")[2].strip() for line in lines}
    for wanted in map(Requirement, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]):
        if wanted.name != "torch":
            assert wanted.specifier.contains(locked[canonical(wanted.name)]), wanted.name
    assert not [name for name in locked if name.startswith(("torch", "nvidia", "cuda", "triton"))]


def canonical(requirement: str) -> str:
    """Return the name that a requirement asks for, as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def third_party() -> set[str]:
    """Return the top-level names that the library and the recipes import from elsewhere."""
    # What only their dependencies' own metadata can promise: transformers brings tokenizers, in the version it needs.
    local = {"kedit", "experiments", "tokenizers", "huggingface_hub"} | set(sys.stdlib_module_names)
    found = set()
    for path in [*(ROOT / "kedit").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - local
