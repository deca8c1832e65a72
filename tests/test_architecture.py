"""The floors of the house, and the habits it lives by, read from the source without importing it."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FLOORS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "kedit.entries",
            "kedit.tested",
            "kedit.deprecations",
            "kedit.words",
            "kedit.paths",
            "kedit.pixels",
            "kedit.arguments",
            "kedit.figure_style",
            "kedit.notebook",
        }
    ),
    frozenset({"kedit.neurons", "kedit.prompts", "kedit.store"}),
    frozenset({"kedit.samples"}),
    frozenset({"kedit.internals", "kedit.fingerprints", "kedit.progress"}),
    frozenset({"kedit.settings"}),
    frozenset({"kedit.models", "kedit.data"}),
    frozenset({"kedit.locate", "kedit.edit", "kedit.evaluation", "kedit.inspection"}),
    frozenset({"kedit.doctor"}),
    frozenset({"kedit.results"}),
    frozenset({"kedit.plots"}),
    frozenset({"kedit.page"}),
    frozenset({"kedit.pipelines"}),
    frozenset({"kedit"}),  # the public names, which may come from anywhere below
    frozenset({"kedit.cli"}),
    frozenset({"kedit.__main__"}),
    frozenset({"experiments"}),
)
"""Rooms from the ground up. A room imports from lower floors and from itself: never up, never sideways."""

EVALUATION_MAY_IMPORT = frozenset(
    {"kedit.arguments", "kedit.notebook", "kedit.neurons", "kedit.samples", "kedit.words", "kedit.evaluation"}
)
"""Evaluation is a function of samples and captions: it sees no model and no edit."""

OWNERS: dict[str, tuple[str, ...]] = {
    "transformers": ("kedit.models", "experiments"),
    "tokenizers": ("kedit.models", "experiments"),
    "diffusers": ("kedit.models", "kedit.data.inpaint", "experiments"),
    "wandb": ("kedit.results.tracking",),
    "evaluate": ("kedit.evaluation",),
    "datasets": ("kedit.evaluation", "kedit.data.folder"),
    "sacrebleu": ("kedit.evaluation",),
    "rouge_score": ("kedit.evaluation",),
    "cv2": ("kedit.data.inpaint_opencv",),
    "matplotlib": ("kedit.plots",),
    "hydra": ("kedit.cli", "experiments"),
    "omegaconf": ("kedit.cli", "experiments"),
    "nnsight": ("experiments",),
    "pyvene": ("experiments",),
    "pickle": (),
    "joblib": (),
}
"""Who may import a package at all; every module whose name begins with one of these."""

HEAVY = frozenset(OWNERS) - {"hydra", "omegaconf"} | {"accelerate", "pandas", "scipy", "skimage", "pycocotools", "cv2"}
"""Packages that are imported inside the functions that need them."""

SET_APART = frozenset(
    {
        *("kedit.evaluation.hf_metrics", "kedit.models.gill.module", "kedit.models.greedy"),
        *("kedit.models.minigpt4_model", "kedit.models.pictured"),
    }
)
"""Modules that subclass a heavy package's classes: as heavy, and imported inside functions like it."""

LIGHT = frozenset({"kedit", "kedit.cli", "kedit.__main__", "kedit.paths"})
"""What `kedit --help` loads: nothing beyond the standard library."""

OUTSIDE_AT_IMPORT = frozenset(
    {
        *("environ", "getenv", "getcwd", "cwd", "home", "expanduser", "manual_seed", "from_pretrained"),
        *("open", "read_text", "read_bytes", "read_csv", "safe_open", "load_file"),
        *("is_file", "is_dir", "exists", "iterdir", "glob", "rglob"),
    }
)
"""Names that touch the environment, the working folder or a file; none may be used while a module is imported."""

REGISTERS = frozenset(
    {
        "register_hook",
        "register_post_accumulate_grad_hook",
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
        "register_module_forward_hook",
        "register_module_forward_pre_hook",
        "register_module_full_backward_hook",
    }
)
MAY_REGISTER = frozenset({"kedit.internals.hooks"})

SEEDING = frozenset({"manual_seed_all", "seed_everything", "set_seed"})
VAGUE_NAMES = frozenset({"utils", "util", "helpers", "common", "misc", "types", "constants", "registry", "base"})
BAGS = frozenset({"cfg", "config", "args", "hparams", "opts"})

HOOKS = "_forward_pre_hooks _forward_hooks"
PRIVATE: tuple[tuple[str, str, str, str], ...] = (
    (
        *("kedit.models.attention", "_attn_implementation"),
        "nothing public tells which attention function a configuration names, or sets it for one configuration alone",
        "test_attention::test_the_logits_are_the_same_to_the_bit_and_the_implementation_is_restored",
    ),
    (
        *("kedit.doctor.state", f"{HOOKS} _backward_hooks _backward_pre_hooks"),
        "torch lists the hooks of a module nowhere else",
        "test_doctor::test_every_kind_of_hook_of_a_module_is_seen",
    ),
    (
        *("kedit.internals.blocks", "_apply_gate"),
        "the one place between the experts' two matrices that a hook can take",
        "test_experts::test_experts_without_a_place_for_a_hook_are_told_of",
    ),
    (
        *("kedit.cli.comparison.memory", "torch.utils._python_dispatch.TorchDispatchMode"),
        "torch's documented way to see every operator, which has no public address",
        "test_bench::test_bytes_count_until_their_tensor_is_freed",
    ),
    (
        *("experiments.costs.ways", "_remove_forward_hooks"),
        "pyvene deletes the hooks of others, and has no switch for it",
        "test_bench::test_a_rival_gives_bit_for_bit_what_the_raw_hook_gives",
    ),
    (
        *("kedit.internals.wrappers", "torch._dynamo"),
        "asking torch to run what is compiled as it is written loads its compiler, which takes seconds",
        "test_wrappers::test_wrapped_blocks_have_the_scores_the_edits_and_the_answers_of_bare_ones",
    ),
    (
        *("kedit.internals.experts", "_apply_gate _experts_implementation _is_expert_parallel"),
        "the one place between the experts' two matrices, and what says how and where they run",
        "test_experts::test_an_implementation_that_hides_the_neurons_is_refused_with_what_helps",
    ),
    (
        *("kedit.internals.weights", "_forward_pre_hooks"),
        "the older `weight_norm` and `prune` make a weight anew in hooks, which torch lists nowhere else",
        "test_weights::test_a_weight_is_what_the_module_multiplies_with",
    ),
    (
        *("kedit.internals.hooks", f"{HOOKS} _forward_pre_hooks_with_kwargs"),
        "torch lists the hooks of a module nowhere else, nor removes one without its handle",
        "test_hooks::test_a_deep_copy_made_meanwhile_is_not_affected_and_forgets_the_hooks",
    ),
)
"""Private names of other packages: the module, the names, why nothing public will do, the test that sees a change."""

PUBLIC = frozenset({"_target_", "_convert_", "_class_name", "_asdict", "_fields", "_replace"})
"""Keys that Hydra and diffusers document, and the documented methods of a named tuple."""
FILES = frozenset({"_annotations.coco.json"})
PIECES = frozenset({"_token", "_token_id", "_bias", "_col_", "_low", "_high", "_n"}) | FILES
"""Strings that are no names but parts of some, and a file of Roboflow's."""

MAX_FILE = 500
MAX_FUNCTION = 57
MAX_CODE = 40
"""Of a function without its docstring, which may say something of each argument."""


@dataclass(frozen=True)
class Import:
    """One imported module: its dotted name, where, and whether importing the file imports it."""

    name: str
    line: int
    at_import: bool
    for_types: bool = False
    """Whether only a type checker reads it."""


@dataclass(frozen=True)
class Module:
    """A source file, parsed."""

    name: str
    path: Path
    tree: ast.Module

    def at(self, node: ast.AST) -> str:
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


@cache
def modules() -> tuple[Module, ...]:
    paths = sorted(path for folder in ("kedit", "experiments") for path in (ROOT / folder).rglob("*.py"))
    return tuple(Module(dotted(path), path, ast.parse(path.read_text(encoding="utf-8"))) for path in paths)


def library() -> list[Module]:
    return [module for module in modules() if module.name.partition(".")[0] == "kedit"]


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def room(name: str) -> str | None:
    """Return the room of FLOORS that `name` belongs to; `kedit` itself is a room of one."""
    rooms = [r for floor in FLOORS for r in floor if name == r or (r != "kedit" and within(name, r))]
    return rooms[0] if rooms else None


def floor(name: str) -> int:
    return next(height for height, rooms in enumerate(FLOORS) if room(name) in rooms)


def walk_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes under `node` that run when the file is imported, or are only there for a type checker."""
    yield node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        arguments = node.args
        always: list[ast.AST] = [*arguments.defaults, *filter(None, arguments.kw_defaults)]
        children = always + getattr(node, "decorator_list", [])
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from walk_at_import(child)


def for_type_checkers(tree: ast.Module) -> set[ast.AST]:
    """Return the nodes under `if TYPE_CHECKING:`, which never run."""
    guards = [n for n in nodes(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    return {node for guard in guards for statement in guard.body for node in ast.walk(statement)}


@cache
def nodes(tree: ast.Module) -> tuple[ast.AST, ...]:
    """Return what `ast.walk` yields, once for all who ask."""
    return tuple(ast.walk(tree))


@cache
def imports(module: Module) -> tuple[Import, ...]:
    """Return what a module imports; `from kedit import samples` counts as `kedit.samples`."""
    return tuple(imported(module))


def imported(module: Module) -> Iterator[Import]:
    known = {m.name for m in modules()}
    typed = for_type_checkers(module.tree)
    running = set(walk_at_import(module.tree)) - typed
    for node in nodes(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            full = [f"{source}.{alias.name}" for alias in node.names if f"{source}.{alias.name}" != "kedit.__version__"]
            names = [name if name in known else source for name in full]
        else:
            continue
        yield from (Import(name, node.lineno, node in running, node in typed) for name in dict.fromkeys(names))


def functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (n for n in nodes(module.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def called(node: ast.AST) -> str:
    """Return the last name of what a call calls: `load` for `torch.load(...)`; empty if it is no call."""
    function = node.func if isinstance(node, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def calls(module: Module, names: frozenset[str]) -> list[ast.Call]:
    return [node for node in nodes(module.tree) if isinstance(node, ast.Call) and called(node) in names]


def is_private(name: str) -> bool:
    return any(re.fullmatch(r"_[a-zA-Z]\w*", part) for part in name.split("."))


def own_names(module: Module) -> set[str]:
    """Return the names that a module gives to functions, classes, fields and attributes itself."""
    names = set()
    for node in nodes(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            names.add(node.attr)
    return names


def names_at(node: ast.AST) -> list[str]:
    """Return the names of others that a node may use: imported, taken from an object, told as a string, overridden."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.keyword):
        return [node.arg or ""]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value] if re.fullmatch(r"[\w.]+", node.value) else []
    if isinstance(node, ast.ClassDef):
        assigned = [one for one in node.body if isinstance(one, ast.Assign)]
        return [target.id for one in assigned for target in one.targets if isinstance(target, ast.Name)]
    return []


def private_names(module: Module) -> dict[str, str]:
    """Return the private names of other packages that a module uses, and where."""
    ours = own_names(module) | PUBLIC | PIECES
    found = [(name, module.at(node)) for node in nodes(module.tree) for name in names_at(node)]
    return {name: place for name, place in found if is_private(name) and name not in ours}


def claim_none(offenses: list[str]) -> None:
    assert not offenses, "\n" + "\n".join(offenses)


def test_every_module_has_a_floor() -> None:
    claim_none([f"{m.path}: `{m.name}` is on no floor; add it to FLOORS" for m in modules() if room(m.name) is None])


def test_imports_point_down_never_up_never_sideways() -> None:
    offenses = []
    for module in modules():
        for wanted in imports(module):
            target = room(wanted.name)
            if target is None or target == room(module.name):
                continue
            if floor(wanted.name) >= floor(module.name):
                offenses.append(f"{module.path}:{wanted.line}: `{module.name}` must not import `{wanted.name}`")
    claim_none(offenses)


def test_no_module_imports_itself_by_way_of_others() -> None:
    """An import inside a function counts too: it hides a circle and does not open it."""
    names = {m.name for m in library()}
    graph = {m.name: {i.name for i in imports(m) if not i.for_types and i.name in names - {m.name}} for m in library()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_evaluation_sees_only_samples_and_captions() -> None:
    claim_none(
        [
            f"{m.path}:{i.line}: evaluation must not import `{i.name}`"
            for m in modules()
            if within(m.name, "kedit.evaluation")
            for i in imports(m)
            if within(i.name, "kedit") and not any(within(i.name, allowed) for allowed in EVALUATION_MAY_IMPORT)
        ]
    )


def test_a_package_is_imported_only_by_its_owners() -> None:
    offenses = []
    for module in modules():
        for wanted in imports(module):
            owners = OWNERS.get(wanted.name.partition(".")[0])
            if owners is not None and not module.name.startswith(owners):
                offenses.append(f"{module.path}:{wanted.line}: `{wanted.name}` belongs to {owners or 'nobody'}")
    claim_none(offenses)


def test_heavy_packages_are_imported_inside_the_functions_that_need_them() -> None:
    claim_none(
        [
            f"{m.path}:{i.line}: `{i.name}` at module level"
            for m in library()
            if m.name not in SET_APART
            for i in imports(m)
            if i.at_import and (i.name.partition(".")[0] in HEAVY or i.name in SET_APART)
        ]
    )


def test_what_the_command_loads_is_light() -> None:
    outside = {"torch", "numpy", "PIL", "rich", "tqdm", "safetensors", *HEAVY}
    claim_none(
        [
            f"{m.path}:{i.line}: `{i.name}` would slow `kedit --help`"
            for m in library()
            for i in imports(m)
            if m.name in LIGHT and i.at_import
            if i.name.partition(".")[0] in outside or (within(i.name, "kedit") and i.name not in LIGHT)
        ]
    )


def test_nothing_is_read_while_a_module_is_imported() -> None:
    offenses = []
    for module in library():
        for node in walk_at_import(module.tree):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if name in OUTSIDE_AT_IMPORT:
                offenses.append(f"{module.at(node)}: `{name}` at import")
    claim_none(offenses)


def test_hooks_are_registered_in_one_place() -> None:
    claim_none(
        [
            f"{m.at(call)}: `{called(call)}` outside {sorted(MAY_REGISTER)}"
            for m in library()
            for call in calls(m, REGISTERS)
            if m.name not in MAY_REGISTER
        ]
    )


def test_private_names_of_other_packages_are_listed_with_a_reason() -> None:
    listed = {(module, name) for module, names, *_ in PRIVATE for name in names.split()}
    used = {(module.name, name): at for module in modules() for name, at in private_names(module).items()}
    claim_none([f"{at}: `{name}` is private" for (module, name), at in used.items() if (module, name) not in listed])
    claim_none([f"PRIVATE: `{module}` no longer uses `{name}`" for module, name in sorted(listed - used.keys())])


@pytest.mark.parametrize("message", sorted({test for *_, test in PRIVATE}))
def test_a_test_watches_over_each_private_name(message: str) -> None:
    file, _, name = message.partition("::")
    assert f"def {name}(" in (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")


def test_the_library_seeds_nothing_global() -> None:
    offenses = [f"{m.at(call)}: `{called(call)}`" for m in library() for call in calls(m, SEEDING)]
    offenses += [
        f"{m.at(call)}: `{ast.unparse(call.func)}` seeds the whole process; use a generator"
        for m in library()
        for call in calls(m, frozenset({"manual_seed", "seed"}))
        if ast.unparse(call.func) in ("torch.manual_seed", "torch.seed", "random.seed", "np.random.seed")
    ]
    claim_none(offenses)


def test_no_pickle_is_loaded_and_no_code_from_a_model_folder_is_run() -> None:
    offenses = []
    for module in modules():
        for call in nodes(module.tree):
            if not isinstance(call, ast.Call):
                continue
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            target = ast.unparse(call.func)
            if target == "torch.load" and given.get("weights_only") != "True":
                offenses.append(f"{module.at(call)}: `torch.load` without `weights_only=True`")
            if given.get("trust_remote_code") == "True":
                offenses.append(f"{module.at(call)}: `trust_remote_code` is the user's to switch on")
            if given.get("allow_pickle") == "True" or target == "evaluate.load":
                offenses.append(f"{module.at(call)}: `{ast.unparse(call)}` runs what it loads")
    claim_none(offenses)


def test_the_library_prints_nothing_and_configures_no_logging() -> None:
    noisy = frozenset({"print", "basicConfig"})
    quiet = [module for module in library() if not within(module.name, "kedit.cli")]
    claim_none([f"{m.at(call)}: `{called(call)}`" for m in quiet for call in calls(m, noisy)])


def test_no_function_takes_a_bag_of_settings() -> None:
    claim_none(
        [
            f"{m.at(f)}: `{f.name}` takes `{a.arg}`; name what it needs"
            for m in library()
            if not within(m.name, "kedit.cli")
            for f in functions(m)
            for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs)
            if a.arg in BAGS
        ]
    )


def test_annotations_are_evaluated() -> None:
    claim_none([f"{m.path}:{i.line}: `{i.name}`" for m in modules() for i in imports(m) if i.name == "__future__"])


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.name)
def test_a_file_is_short_and_named_for_one_idea(module: Module) -> None:
    stem = module.name.rpartition(".")[2]
    assert stem not in VAGUE_NAMES, f"{module.path}: `{stem}` says nothing"
    length = len(module.path.read_text(encoding="utf-8").splitlines())
    assert length <= MAX_FILE, f"{module.path} has {length} lines, the limit is {MAX_FILE}"


def lines(node: ast.AST) -> int:
    return (getattr(node, "end_lineno", 0) or 0) - getattr(node, "lineno", 0) + 1


def docstring_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return lines(function.body[0]) if ast.get_docstring(function) is not None else 0


def test_functions_are_short() -> None:
    offenses = []
    for module in library():
        for function in functions(module):
            whole, code = lines(function), lines(function) - docstring_lines(function)
            if whole > MAX_FUNCTION or code > MAX_CODE:
                limits = f"the limits are {MAX_FUNCTION} and {MAX_CODE}"
                offenses.append(f"{module.at(function)}: `{function.name}` has {whole} lines, {code} of code; {limits}")
    claim_none(offenses)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\n", [("torch", True)]),
        ("def f():\n    import wandb\n", [("wandb", False)]),
        ("class A:\n    import wandb\n", [("wandb", True)]),
        ("try:\n    import wandb\nexcept ImportError:\n    pass\n", [("wandb", True)]),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import wandb\n",
            [("typing", True), ("wandb", False)],
        ),
        ("from kedit import samples\n", [("kedit.samples", True)]),
        ("from kedit import Concept\n", [("kedit", True)]),
        ("from kedit import __version__\n", []),
        ("from kedit.samples import Concept\n", [("kedit.samples", True)]),
    ],
)
def test_imports_are_read_as_python_reads_them(source: str, found: list[tuple[str, bool]]) -> None:
    module = Module("kedit.example", ROOT / "kedit" / "example.py", ast.parse(source))
    assert [(i.name, i.at_import) for i in imports(module)] == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from hydra._internal.x import Y", {"hydra._internal.x.Y"}),
        ("from torch import _C", {"torch._C"}),
        ("import torch._dynamo", {"torch._dynamo"}),
        ("module._forward_hooks", {"_forward_hooks"}),
        ("getattr(module, '_hf_hook', None)", {"_hf_hook"}),
        ("vars(module)['_apply_gate']", {"_apply_gate"}),
        ("logging.getLogger('torch._dynamo')", {"torch._dynamo"}),
        ("f(_private=1)", {"_private"}),
        ("class A(B):\n    _supports_sdpa = True", {"_supports_sdpa"}),
        ("class A:\n    _x: int = 0\n    def f(self):\n        self._y = self._x", set()),
        ("def _f():\n    pass\nother._f()", set()),
        ("module.__dict__, instantiate(node, _convert_='all'), '_', 'a_b', 'what `_x` is'", set()),
    ],
)
def test_private_names_are_found_wherever_they_stand(source: str, found: set[str]) -> None:
    assert private_names(Module("kedit.example", ROOT / "kedit" / "example.py", ast.parse(source))).keys() == found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kedit", "kedit"),
        ("kedit.locate.gradcam", "kedit.locate"),
        ("kedit.localization", None),
        ("experiments.operators.run", "experiments"),
        ("kedit.cli.run", "kedit.cli"),
        ("torch.nn", None),
    ],
)
def test_a_module_is_found_in_its_room(name: str, expected: str | None) -> None:
    assert room(name) == expected


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("import os\nHOME = os.environ['HOME']\n", True),
        ("from pathlib import Path\nTEXT = Path('x').read_text()\n", True),
        ("from pathlib import Path\ndef f(here=Path.cwd()):\n    pass\n", True),
        ("def f():\n    return open('x')\n", False),
        ("G = lambda: open('x')\n", False),
    ],
)
def test_what_runs_at_import_is_told_from_what_does_not(source: str, read: bool) -> None:
    found = list(walk_at_import(ast.parse(source)))
    names = {n.attr for n in found if isinstance(n, ast.Attribute)} | {n.id for n in found if isinstance(n, ast.Name)}
    assert bool(names & OUTSIDE_AT_IMPORT) is read
