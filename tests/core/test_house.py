"""The house rules: which part may know which, how long a file may be, and what is never done."""

from __future__ import annotations

import ast
import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import tropism

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core/src/tropism"
SOURCES = sorted(path for folder in (ROOT / "core/src", ROOT / "plugins") for path in folder.rglob("*.py"))

# Low to high: at module level a module imports only from lower layers, and within its own layer without a cycle.
# A name stands for the module and all below it, unless a longer name is listed.
LAYERS = [
    {"errors"},
    {"entry"},
    {"types", "siblings", "hookspecs", "builtin", "scale.launch", "stop", "checkpoint", "clock", "scale.memory", "progress", "track"},
    {"scale"},
    {"diffusion.window", "overrides"},
    {"plugins", "recipe", "diffusion.schedules", "diffusion.noise"},
    {"policy"},
    {"diffusion", "diffusion.samplers", "diffusion.rollout"},
    {"policies", "rewards", "credit", "judges", "data"},
    {"optimizers", "steering"},
    {"toy", "toy_chains", "evaluate", "gallery", "guard", "scale.spread", "scale.even", "report", "judged", "turning.steerable"},
    {"assemble", "testing"},
    {"runfolder", "state", "sampling", "scale.network", "rollouts", "offline", "turning.particles", "turning.baseline"},
    {"loop", "own_pairs", "contact_sheet", "turning.folder"},
    {"api", "turning"},
    {"exports"},
    {"cli"},
    {"__main__"},
]


def layer(module: str) -> int:
    """The layer of a module such as ``tropism.diffusion.noise``; the package itself holds only lazy names and is below all."""
    name = module.removeprefix("tropism").removeprefix(".")
    if not name:
        return -1
    for length in range(name.count(".") + 1, 0, -1):
        prefix = ".".join(name.split(".")[:length])
        for number, names in enumerate(LAYERS):
            if prefix in names:
                return number
    raise AssertionError(f"{module} is in no layer; add it to LAYERS where it belongs")


def module_name(path: Path) -> str:
    parts = path.relative_to(CORE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(CORE.rglob("*.py"))}


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import: not those inside functions, nor those for type checkers alone."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from top_level(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from top_level([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)])
        elif isinstance(node, ast.ClassDef):
            yield from top_level(node.body)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imports(path: Path, nodes: Iterator[ast.AST] | None = None) -> set[str]:
    """Modules of tropism that a file imports when it is imported."""
    found: set[str] = set()
    for node in nodes if nodes is not None else top_level(ast.parse(path.read_text()).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found


def test_arrows_point_down():
    wrong = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        for other in imports(path)
        if other in MODULES and module != "tropism" and layer(other) > layer(module)
    ]
    assert wrong == []


def test_the_layer_of_every_module_is_listed_and_every_listed_name_exists():
    for module in MODULES:
        layer(module)
    listed = {name for names in LAYERS for name in names}
    assert {name for name in listed if f"tropism.{name}" not in MODULES} == set()


def test_no_import_cycles():
    graph = {module: {other for other in imports(path) if other in MODULES and other != module} for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_core_never_imports_a_plugin():
    wrong = []
    for path in CORE.rglob("*.py"):
        everything = imports(path, ast.walk(ast.parse(path.read_text())))
        wrong += [f"{path.name} imports {name}" for name in everything if re.match(r"tropism_\w+", name)]
    assert wrong == []


def test_an_optimizer_knows_no_modality_and_a_modality_no_optimizer():
    for module, path in MODULES.items():
        everything = imports(path, ast.walk(ast.parse(path.read_text())))
        if module.startswith("tropism.optimizers"):
            assert not {name for name in everything if name.startswith(("tropism.policies", "tropism.toy", "tropism.rewards"))}, module
    for path in (ROOT / "plugins").rglob("src/**/*.py"):
        everything = imports(path, ast.walk(ast.parse(path.read_text())))
        assert not {name for name in everything if name.startswith(("tropism.optimizers", "tropism.loop"))}, path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_350_lines(path):
    assert len(path.read_text().splitlines()) <= 350


def test_no_file_is_named_utils():
    assert [path for path in SOURCES if re.fullmatch(r"(utils?|helpers?|common|misc)\.py", path.name)] == []


def test_one_version_for_all():
    found = {
        path: tomllib.loads(path.read_text())["project"]
        for path in [ROOT / "pyproject.toml", *ROOT.glob("core/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")]
    }
    assert len(found) >= 3
    assert {project["version"] for project in found.values()} == {tropism.__version__}
    for path, project in found.items():
        own = [
            need
            for need in [*project.get("dependencies", []), *itertools.chain(*project.get("optional-dependencies", {}).values())]
            if need.startswith("tropism")
        ]
        assert all(need.endswith(f"=={tropism.__version__}") for need in own), path


def test_every_plugin_names_its_entry_point_after_its_package():
    for path in ROOT.glob("plugins/*/pyproject.toml"):
        points = tomllib.loads(path.read_text())["project"]["entry-points"]["tropism"]
        assert list(points.values()) == [f"tropism_{path.parent.name}.plugin"]


RECIPES = sorted([*ROOT.glob("core/src/tropism/recipes/*.yaml"), *ROOT.glob("plugins/*/src/*/recipes/*.yaml")])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_states_its_purpose_data_hardware_and_what_it_reached(path):
    header = list(itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines()))
    name = yaml.safe_load(path.read_text())["name"]
    assert header[0].startswith(f"# {name}: ") and name == f"{name.split('/')[0]}/{path.stem.removeprefix('toy-')}"
    for word in ("Data", "Hardware", "Measured"):
        assert sum(line.startswith(f"# {word} ") for line in header) == 1, f"{word} is not stated, or twice"


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else {str(node.module).split(".")[0]}
            assert not names & {"cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}, ast.unparse(node)
            assert not isinstance(node, ast.ImportFrom) or "pickle" not in names, ast.unparse(node)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            assert node.attr == "UnpicklingError", "pickle may be named only to catch its fault"
    for name, call in calls(tree):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.load":
            assert keywords.get("weights_only") == "True", ast.unparse(call)
        if name in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle", "False") == "False", ast.unparse(call)
        assert name not in ("eval", "exec", "yaml.unsafe_load", "os.system"), ast.unparse(call)
        assert keywords.get("shell") != "True", ast.unparse(call)
        assert keywords.get("trust_remote_code", "False") == "False", ast.unparse(call)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is_and_nothing_about_this_machine(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "a module begins with its one idea"
    assert not re.search(r"/(home|root|work|tmp|Users)/\w", text)


PAGES = [
    page
    for folder in (ROOT, ROOT / "docs", ROOT / "plugins", ROOT / "core")
    for page in folder.glob("*.md" if folder == ROOT else "**/*.md")
]


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing, f"{page.relative_to(ROOT)} links to {missing}"


def test_the_rules_can_fail(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text("from tropism.cli import main\ndef f():\n    import tropism.api\nif TYPE_CHECKING:\n    import tropism.loop\n")
    assert imports(file) == {"tropism.cli"}
    assert layer("tropism.cli.ls") > layer("tropism.loop") > layer("tropism.diffusion.rollout") > layer("tropism.diffusion.noise")
    with pytest.raises(AssertionError, match="in no layer"):
        layer("tropism.somewhere")


def test_the_public_names_stay_functions_when_modules_of_the_core_are_imported():
    """A submodule takes the place of a public name that it shares; none may."""
    for name in tropism.__all__:
        assert not (CORE / f"{name}.py").exists() and not (CORE / name).is_dir(), f"tropism.{name} is also a module"
