"""Every YAML file: its command composes and uses it, what it names is kedit's, and its defaults are Python's."""

import dataclasses
import inspect
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from kedit.cli.configuration import MOVED, build, plain
from kedit.cli.errors import ConfigurationError
from kedit.data.scenes import Scenes
from kedit.locate.shipped import FORMER, shipped
from kedit.locate.target import Target
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.shipped import ASKED, HERE, SHIPPED
from kedit.paths import conf_dir

CONF = conf_dir()
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))
STUDIES = sorted((CONF.parent / "experiments").rglob("*.yaml"))
PARTICULAR = frozenset({"model"})
"""Groups whose options each describe one thing, and differ from Python's defaults on purpose."""
TUNED = {
    **{(f"locate/{name}.yaml", "target"): (Target(value="margin"),) for name in ("selective", "two_stage_selective")},
    ("locate/selective.yaml", "value"): ("margin",),
    ("locate/two_stage_selective.yaml", "value"): ("margin",),
    ("locate/two_stage_selective.yaml", "positions"): ("all",),
    ("locate/two_stage_selective.yaml", "over_positions"): ("max", "sum"),
    ("locate/two_stage_selective.yaml", "at_most"): (None, 128),
    ("locate/two_stage.yaml", "of_max"): (None, 0.2),
    ("locate/two_stage_answer.yaml", "of_max"): (None, 0.2),
    ("locate/two_stage_answer.yaml", "positions"): ("target",),
    ("locate/knowledge_neurons.yaml", "of_max"): (None, 0.2),
    ("locate/random_layer_matched.yaml", "of_max"): (None, 0.2),
    ("locate/grad_act.yaml", "positions"): ("all",),
    ("locate/grad_act.yaml", "over_positions"): ("sum",),
    ("locate/act_unembed.yaml", "norm"): ("gamma",),
    ("locate/domain_entropy.yaml", "site"): ("act",),
    **{(f"locate/nam_{name}.yaml", "positions"): ("target",) for name in ("act", "grad", "grat", "ce")},
    ("locate/nam_weighted.yaml", "weight"): (0.5,),
    ("locate/nam_grai.yaml", "value"): ("logit",),
    ("locate/nam_grai.yaml", "over_samples"): ("mean",),
    ("locate/nam_ce.yaml", "group"): (16,),
    ("locate/nam_ce.yaml", "noise"): (1.0,),
    ("locate/nam_ce.yaml", "repeats"): (8,),
    ("inpaint/scenes_diffusion.yaml", "steps"): (10,),
    ("inpaint/scenes_diffusion.yaml", "guidance"): (1.0,),
}
"""Options that a file sets, in some of its parts, to something better for its purpose than Python's default."""
PLUGINS = {"launch/ray.yaml": "hydra-ray-launcher", "experiment/pareto.yaml": "hydra-optuna-sweeper"}
"""Files that need a package which not every developer has."""


def is_usable(path: Path) -> bool:
    needed = PLUGINS.get(path.as_posix())
    return needed is None or bool(list(distributions(name=needed)))


def commands(path: Path, program: str = "kedit ") -> list[str]:
    lines = (CONF / path).read_text().splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith(f"# {program}")]


@cache
def composed(recipe: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = compose(recipe, list(overrides), return_hydra_config=True)
    OmegaConf.set_readonly(chosen, True)
    return chosen


USABLE = [path for path in FILES if is_usable(path)]
OPTIONS = [path for path in USABLE if len(path.parts) > 1 and path.parts[0] != "hydra"]
COMPONENTS = [path for path in OPTIONS if "_target_" in OmegaConf.load(CONF / path)]
BESIDE = [path for path in OPTIONS if "@package" not in (CONF / path).read_text()]
"""Those that leave what other groups choose as it is."""


def single_jobs(words: list[str]) -> Iterator[list[str]]:
    """Yield the overrides of a sweep's first and last job."""
    parsed: list[Override] = OverridesParser.create().parse_overrides(words)
    values = {
        word: [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [word]
        for word, one in zip(words, parsed, strict=True)
    }
    for end in (0, -1):
        yield [choices[end] for choices in values.values()]


def configurations(command: str) -> Iterator[DictConfig]:
    """Yield the configuration of each job that `command` asks for."""
    program, name, *words = shlex.split(command)
    assert program == "kedit"
    recipe, sweep = name.replace("-", "_"), words[:1] == ["-m"]
    if not sweep:
        assert not any(one.is_sweep_override() for one in OverridesParser.create().parse_overrides(words))
        yield composed(recipe, *words)
        return
    for job in single_jobs(words[1:]):
        first = composed(recipe, *job)
        yield first
        if swept := [f"{key}={value}" for key, value in (first.hydra.sweeper.params or {}).items()]:
            yield from (composed(recipe, *job, *one) for one in single_jobs(swept))


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every part of plain data that has a `_target_`."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from nodes(value)
    elif isinstance(node, list):
        for item in node:
            yield from nodes(item)


def python_defaults(target: str) -> dict[str, Any]:
    """Return the defaults of what `target` names: of a dataclass's fields or of a function's parameters."""
    found = get_object(target)
    if not dataclasses.is_dataclass(found):
        parameters = inspect.signature(found).parameters.items()
        return {name: one.default for name, one in parameters if one.default is not inspect.Parameter.empty}
    defaults = {}
    for field in dataclasses.fields(found):
        if field.init and field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
        elif field.init and field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
    return defaults


def chosen_in_run(path: Path) -> DictConfig:
    """Return a run with the option, beside one of every other group: so few compositions have them all."""
    if path not in BESIDE:
        return composed("run", f"{path.parent.as_posix()}={path.stem}")
    groups: dict[str, list[str]] = {}
    for one in BESIDE:
        groups.setdefault(one.parent.as_posix(), []).append(one.stem)
    place = groups[path.parent.as_posix()].index(path.stem)
    return composed("run", *(f"{group}={options[place % len(options)]}" for group, options in groups.items()))


def is_there(model: DictConfig) -> bool:
    """Return whether the weights of `model` lie on this machine, or are drawn."""
    if OmegaConf.is_missing(model, "path"):
        return False
    if "path" not in model:
        return True
    folder = HERE / model.path if model.path in SHIPPED else Path(model.path)
    return any(folder.glob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_opens_with_a_command(path: Path) -> None:
    opening = (CONF / path).read_text().splitlines()[:2]
    assert any(line.startswith("# kedit ") for line in opening), opening


@pytest.mark.parametrize(("path", "command"), [(path, one) for path in USABLE for one in commands(path)], ids=str)
def test_the_command_composes_and_uses_the_file_and_builds_its_parts(path: Path, command: str) -> None:
    jobs = list(configurations(command))
    for job in jobs:
        if len(path.parts) > 1:
            assert job.hydra.runtime.choices[path.parent.as_posix()] == path.stem
        for group in ("data", "inpaint", "segment", "locate", "select", "edit", "tracker"):
            if job.get(group) is not None:
                build(job[group])
    assert jobs


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.relative_to(CONF.parent).as_posix())
def test_a_study_opens_with_commands_that_compose_and_build_its_parts(path: Path) -> None:
    name = path.with_name("run").stem if path.stem == "config" else path.stem
    module = ".".join(path.with_name(name).relative_to(CONF.parent).parts)
    opening = commands(path, "python -m ")
    assert opening
    for command in opening:
        _, _, called, *words = shlex.split(command)
        assert called == module
        with initialize_config_dir(str(path.parent), version_base="1.3"):
            chosen = compose(path.stem, words)
        for group in ("data", "inpaint", "segment", "locate", "select", "edit", "tracker"):
            if chosen.get(group) is not None:
                build(chosen[group])


@pytest.mark.parametrize("path", OPTIONS, ids=str)
def test_an_option_composes_into_the_run(path: Path) -> None:
    chosen = chosen_in_run(path)
    assert chosen.hydra.runtime.choices[path.parent.as_posix()] == path.stem
    own = OmegaConf.to_container(OmegaConf.load(CONF / path))
    assert isinstance(own, dict)
    if path.parent.name == "locate" and path.stem in FORMER:
        assert own == {"defaults": [FORMER[path.stem], "_self_"]}
    elif "@package _global_" in (CONF / path).read_text():
        assert set(own) - {"defaults"} <= set(chosen)
    else:
        assert OmegaConf.to_container(chosen[path.parent.as_posix()]) == own


@pytest.mark.parametrize("path", COMPONENTS, ids=str)
def test_a_component_instantiates(path: Path) -> None:
    node = chosen_in_run(path)[path.parent.as_posix()]
    if path.parent.name == "model" and not is_there(node):
        pytest.skip(f"no weights of `{path.stem}` on this machine")
    if path.parent.name in ("data", "inpaint", "segment") and OmegaConf.missing_keys(node):
        pytest.skip(f"`{path.stem}` is the user's to place; the file's own command builds it")
    made = build(node)
    target = get_object(node._target_)
    assert isinstance(made, target) if inspect.isclass(target) else made is not None


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_target_is_kedits(path: Path) -> None:
    content = OmegaConf.to_container(OmegaConf.load(CONF / path))
    assert isinstance(content, dict)
    # What Hydra builds for itself lies where it looks for it.
    running = content if path.parts[0] == "hydra" else content.pop("hydra", {})
    for node in nodes(running):
        assert node["_target_"].startswith("kedit.cli.")
    for node in nodes(content) if running is not content else ():
        assert node["_target_"].startswith("kedit.")


@pytest.mark.parametrize("path", [path for path in COMPONENTS if path.parts[0] not in PARTICULAR], ids=str)
def test_a_file_states_every_default_that_python_has_and_the_same_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KEDIT_STORE")
    node = plain(chosen_in_run(path)[path.parent.as_posix()])
    for part in nodes(node):
        for name, default in python_defaults(part["_target_"]).items():
            assert name in part, f"{part['_target_']} has an option `{name}` that {path} does not show"
            stated = part[name]
            made = build(OmegaConf.create(stated)) if isinstance(stated, dict) else stated
            made = tuple(made) if isinstance(made, list) else made
            if (path.as_posix(), name) in TUNED:
                assert made in TUNED[path.as_posix(), name]
                continue
            assert made == default, f"`{name}` of {part['_target_']} is {default!r} in Python, {made!r} in {path}"


@pytest.mark.parametrize("path", [path for path in COMPONENTS if path.parts[0] in PARTICULAR], ids=str)
def test_a_model_states_every_option_there_is(path: Path) -> None:
    node = OmegaConf.load(CONF / path)
    assert isinstance(node, DictConfig)
    stated = {str(key) for key in node} - {"_target_"}
    assert stated == set(inspect.signature(get_object(node._target_)).parameters)


@pytest.mark.parametrize("recipe", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_no_command_chooses_by_itself_whether_it_is_a_sweep(recipe: str) -> None:
    assert composed(recipe).hydra.mode is None  # which `composed_once` of conftest.py takes for granted


def test_the_sweep_over_all_concepts_names_each_of_them_once() -> None:
    swept = composed("run", "experiment=all_concepts").hydra.sweeper.params.concept
    assert sorted(swept.split(",")) == sorted(concept.name for concept in Scenes().concepts)


@pytest.mark.parametrize("target", ["torch.load", "os.system", "keditor.run", "builtins.eval"])
def test_a_target_that_is_not_kedits_is_refused_before_anything_is_made(target: str) -> None:
    node = OmegaConf.create({"stages": [{"inner": {"_target_": target}}], "_target_": "kedit.data.inpaint.Exact"})
    with pytest.raises(ConfigurationError, match=f"`_target_` must start with `kedit.`, got `{target}`"):
        build(node)


@pytest.mark.parametrize(("former", "now"), FORMER.items())
def test_a_locator_answers_to_its_former_name(former: str, now: str) -> None:
    node = composed("run", f"locate={former}").locate
    assert node == composed("run", f"locate={now}").locate
    assert repr(shipped(former)) == repr(shipped(now)) == repr(build(node))


@pytest.mark.parametrize(("former", "now"), MOVED.items())
def test_what_a_run_of_0_7_kept_is_built_under_its_name_of_now(former: str, now: str) -> None:
    kept = OmegaConf.create({"inner": [{"_target_": former}]})
    OmegaConf.set_readonly(kept, True)
    assert repr(build(kept.inner[0])) == repr(build(OmegaConf.create({"_target_": now})))
    assert kept.inner[0]._target_ == former, "what was kept is left as it is"


@pytest.mark.parametrize("name", ["huggingface", "smollm2", "smollm2_scenes", *SHIPPED])
def test_a_command_asks_a_model_as_a_notebook_does(name: str) -> None:
    node = OmegaConf.load(CONF / "model" / f"{name}.yaml")
    usual = {field.name: field.default for field in dataclasses.fields(HuggingFaceMLLM)} | ASKED.get(name, {})
    for key in ("prompt", "batch_size", "max_new_tokens", "template"):
        assert node[key] in (usual[key], None), key


@pytest.mark.parametrize(
    "group", ["model", "data", "inpaint", "segment", "select", "edit", "tracker", "launch", "experiment"]
)
def test_the_table_of_groups_names_each_option(group: str) -> None:
    rows = (CONF / "README.md").read_text(encoding="utf-8").splitlines()
    (row,) = [row for row in rows if row.startswith(f"| `{group}` |")]
    told = set(re.findall(r"[\w.]+", row))
    assert {one.stem for one in (CONF / group).glob("*.yaml")} <= told
