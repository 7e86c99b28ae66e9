"""The layout of src/clipline: few modules at its top, imports that go down only, and no circles."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "clipline"
LANDMARKS = {"__init__", "api", "errors", "evaluation", "image", "losses", "retrieval"}
# From the ground up: a folder imports from floors below its own, and from itself. docs/architecture.md draws this.
FLOORS = (
    {"errors"},
    {"utils"},
    {"config", "image", "retrieval"},
    {"model", "losses", "runtime", "embeddings", "tracking", "pictures"},
    {"data", "embed", "registry"},
    {"train", "search", "doctor", "evaluation"},
    {"export", "report", "classify", "dupes"},
    {"match", "api", "app"},
    {"cli"},
)
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}


def folder(module: str) -> str:
    """The folder (or the module) directly below src/clipline that `module` belongs to."""
    return module.split(".")[1]


def module_name(file: Path) -> str:
    parts = ("clipline", *file.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = SOURCE.parent / Path(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def imports(file: Path) -> set[str]:
    """The modules of clipline that `file` imports anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "clipline":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if is_module(name) else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "clipline"}
    return found


GRAPH = {module_name(file): imports(file) for file in sorted(SOURCE.rglob("*.py"))}


def test_nothing_lies_loose_at_the_top():
    assert {file.stem for file in SOURCE.glob("*.py")} == LANDMARKS


def test_every_folder_has_a_floor():
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert folders | LANDMARKS - {"__init__"} == LEVEL.keys()


@pytest.mark.parametrize("module", [name for name in GRAPH if name != "clipline"])
def test_imports_go_down_only(module):
    upward = {
        name
        for name in GRAPH[module]
        if folder(name) != folder(module) and LEVEL[folder(name)] >= LEVEL[folder(module)]
    }
    assert upward == set()


def test_no_modules_import_each_other_in_a_circle():
    """Depth-first: a module that is met again while its own imports are being followed closes a circle."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for name in GRAPH.get(module, ()):
                visit(name, (*path, module))
            done.add(module)

    for module in GRAPH:
        visit(module, ())
    assert len(done) > len(LANDMARKS)


def test_bench_imports_nothing_in_a_circle():
    graph = {
        file.stem: {
            node.module
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and (ROOT / "bench" / f"{node.module}.py").is_file()
        }
        for file in (ROOT / "bench").glob("*.py")
    }
    assert [(one, other) for one, names in graph.items() for other in names if one in graph[other]] == []
