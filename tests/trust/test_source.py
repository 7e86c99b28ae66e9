"""The source must not contain ways to run code that comes with data."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "stages", "bench", "examples")
# Modules that unpickle or unmarshal.
MODULES = {"pickle", "_pickle", "cPickle", "pickle5", "cloudpickle", "dill", "joblib", "shelve", "marshal", "yaml"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
# Also what writes pickles: another tool would have to read them.
CALLS = {"torch.load", "torch.save", "torch.jit.load", "torch.package", "pd.read_pickle", "pandas.read_pickle"}
METHODS = {"to_pickle", "read_pickle", "load_module", "exec_module"}
# (file, use): the exceptions, each with its reason.
ALLOWED = {
    # Ray carries rows as Arrow tables. Blocks of work go from our driver to our workers and back as bytes in one
    # column; nothing of it comes from a file or from another program.
    ("src/clipline/embed/on_ray/engine.py", "import pickle"),
    ("src/clipline/embed/on_ray/worker.py", "import pickle"),
}


def findings(text: str) -> set[str]:
    """The forbidden imports, calls and arguments in a module's source."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {f"import {name.name}" for name in node.names if name.name.split(".")[0] in MODULES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            names.add(f"import {node.module}")
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in BUILTINS | CALLS or name.rpartition(".")[2] in METHODS:
                names.add(name)
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", "unknown")
                if keyword.arg == "allow_pickle" and value is not False:
                    names.add("allow_pickle")
                if keyword.arg in {"trust_remote_code", "weights_only"} and value is not False:
                    names.add(keyword.arg)
                if keyword.arg == "shell" and value is not False:
                    names.add("shell")
                if keyword.arg == "typ" and value not in {"safe", "rt"}:
                    names.add("typ")
    return names


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_nothing_forbidden_and_no_exception_without_need():
    uses = {(str(path.relative_to(ROOT)), what) for path in sources() for what in findings(path.read_text("utf-8"))}
    assert len(sources()) > 100
    assert uses == ALLOWED


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import pickle", "import pickle"),
        ("from pickle import loads", "import pickle"),
        ("import joblib.numpy_pickle", "import joblib.numpy_pickle"),
        ("import yaml\nyaml.load(x)", "import yaml"),
        ("import torch\ntorch.load('x')", "torch.load"),
        ("np.load('x', allow_pickle=True)", "allow_pickle"),
        ("np.load('x', allow_pickle=flag)", "allow_pickle"),
        ("eval('1')", "eval"),
        ("exec('1')", "exec"),
        ("pd.read_pickle('x')", "pd.read_pickle"),
        ("AutoModel.from_pretrained('x', trust_remote_code=True)", "trust_remote_code"),
        ("subprocess.run('x', shell=True)", "shell"),
        ("YAML(typ='unsafe')", "typ"),
    ],
)
def test_what_is_found(text, what):
    assert what in findings(text)


@pytest.mark.parametrize(
    "text", ["model.eval()", "np.load('x', mmap_mode='r')", "yaml = YAML(typ='safe')\nyaml.load(x)"]
)
def test_what_is_not(text):
    assert findings(text) == set()
