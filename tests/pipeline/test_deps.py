"""dvc.yaml tells the truth: each stage's deps are exactly the project's modules that it runs, less the exempt ones."""

import ast
import gc
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]

# Modules that cannot change what a stage makes; editing them must not retrain a model.
EXEMPT = {
    "src/clipline/errors.py": "words of errors",
    "src/clipline/utils/progress.py": "what is printed while waiting",
    "src/clipline/pictures/plots.py": "pictures beside the figures",
    "src/clipline/utils/revision.py": "names the commit",
    "src/clipline/utils/files.py": "how a file gets its place, not what is in it",
    "src/clipline/utils/malloc.py": "who keeps freed memory, not what is in it",
    "src/clipline/utils/cores.py": "how many threads, not what they compute",
    "src/clipline/config/base.py": "reads settings; the values themselves are params",
    "src/clipline/config/dataset.py": "reads settings; the values themselves are params",
    "src/clipline/config/old_keys.py": "reads settings; the values themselves are params",
    "src/clipline/config/recipe.py": "reads settings; the values themselves are params",
    "src/clipline/config/augment.py": "reads settings; the values themselves are params",
    "src/clipline/config/loss.py": "reads settings; the values themselves are params",
    "src/clipline/config/training.py": "reads settings; the values themselves are params",
    "src/clipline/config/towers.py": "reads settings; the values themselves are params",
    "src/clipline/config/run.py": "reads settings; the values themselves are params",
    "src/clipline/utils/user.py": "who runs the stage, not what it makes",
    "src/clipline/utils/entry.py": "prints errors and exits",
    "src/clipline/utils/streams.py": "how lines are printed",
    "src/clipline/utils/remedies.py": "words of errors",
    "src/clipline/utils/signals.py": "when training stops, not what it comes to",
    "src/clipline/train/phases.py": "measures time",
    "src/clipline/train/flops.py": "counts arithmetic and changes nothing",
    "stages/common.py": "prints and exits",
}
EXEMPT |= {str(file.relative_to(ROOT)): "MLflow only records" for file in (ROOT / "src/clipline/tracking").glob("*.py")}


# What `import clipline...` runs of the package itself comes to nothing; what it gives by name comes from elsewhere.
PACKAGE = ROOT / "src/clipline/__init__.py"
LAZY = {"clipline.Clip": "clipline.api"}


def parse(*source: str) -> ast.Module:
    """ast.parse without the garbage collector: what that runs inside it is a SystemError in Python 3.11 (gh-106905)."""
    gc.disable()
    try:
        return ast.parse(*source)
    finally:
        gc.enable()


def module_file(name: str) -> Path | None:
    base = ROOT / ("src" if name.split(".", maxsplit=1)[0] == "clipline" else "") / Path(*name.split("."))
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if file.is_file():
            return file
    return None


def imported(file: Path) -> set[str]:
    """The names that `file` imports anywhere, also inside functions: `os`, `pathlib.Path`."""
    found: set[str] = set()
    for node in ast.walk(parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imports(file: Path) -> set[Path]:
    """Those of them that are the project's own files; packages count if they hold code."""
    found = imported(file)
    found |= {LAZY[name] for name in found & LAZY.keys()}
    names = {".".join(name.split(".")[:n]) for name in found for n in range(1, name.count(".") + 2)}
    return {path for name in names if name.split(".")[0] in {"clipline", "stages"} and (path := module_file(name))}


def closure(start: Path) -> set[str]:
    todo, seen = [start], set()
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += imports(file) if file != PACKAGE else ()
    return {str(file.relative_to(ROOT)) for file in seen if has_code(file)}


def has_code(file: Path) -> bool:
    """False for a package's __init__ that decides no result: it holds a docstring, sets the path, or gives names."""
    if file in (PACKAGE, ROOT / "stages" / "__init__.py"):
        return False
    return any(not isinstance(node, ast.Expr) for node in parse(file.read_text()).body)


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_import_closure(stage):
    listed = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    needed = closure(ROOT / "stages" / f"{stage}.py") - EXEMPT.keys()
    assert listed == needed, f"add {sorted(needed - listed)}; remove {sorted(listed - needed)}"


@pytest.mark.parametrize("name", ["train/loop.py", "export/export.py"])
def test_training_and_export_need_neither_dvc_nor_mlflow(name):
    files = closure(ROOT / "src/clipline" / name)
    assert "src/clipline/retrieval.py" in files
    tops = {file: {each.split(".")[0] for each in imported(ROOT / file)} for file in files}
    assert {file for file, found in tops.items() if found & {"dvc", "mlflow"}} == set()
    assert any("torch" in found for found in tops.values()), "what is imported is seen"


def test_every_exemption_exists():
    assert [name for name in EXEMPT if not (ROOT / name).is_file()] == []
