"""Put into every Python of the run as `sitecustomize`: every attempt to unpickle is recorded and refused.

CLIPLINE_GUARD names a folder: `started-<pid>` says that a process had the guard, `attempts` what was tried.
"""

import builtins
import os
import sys
from pathlib import Path

FOLDER = Path(os.environ["CLIPLINE_GUARD"])
# Libraries that read back what they made themselves in this very run; none of it comes from a data or model file.
OWN = {
    "multiprocessing": "arguments of the processes that a program starts",
}


def caller() -> str:
    """The frames above, innermost first, without those of the pickle module itself."""
    frame, names = sys._getframe(2), []
    while frame and len(names) < 8:
        module = frame.f_globals.get("__name__", "?")
        if module not in {"pickle", "_pickle", "sitecustomize", "_compat_pickle"}:
            names.append(f"{module}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(names)


def refuse(what: str) -> None:
    """Record the attempt, and raise."""
    where = caller()
    if where.split(":")[0].split(".")[0] in OWN:
        return
    with (FOLDER / "attempts").open("a") as file:
        file.write(f"{os.getpid()} {Path(sys.argv[0]).name if sys.argv else '?'}: {what} by {where}\n")
    raise RuntimeError(f"unpickling is refused here: {what} by {where}")


def replaced(what: str, function):
    """`function`, refused before it runs."""

    def call(*arguments, **named):
        refuse(what)
        return function(*arguments, **named)

    return call


def guard_pickle() -> None:
    """Every way into the standard library's unpickling."""
    import _pickle
    import pickle

    class Unpickler(_pickle.Unpickler):
        def load(self):
            refuse("Unpickler.load")
            return super().load()

    class PlainUnpickler(pickle._Unpickler):
        def load(self):
            refuse("_Unpickler.load")
            return super().load()

    for module in (pickle, _pickle):
        for name in ("load", "loads"):
            setattr(module, name, replaced(f"pickle.{name}", getattr(module, name)))
        module.Unpickler = Unpickler
    pickle._Unpickler = PlainUnpickler
    pickle._load, pickle._loads = replaced("pickle._load", pickle._load), replaced("pickle._loads", pickle._loads)


def guard_torch() -> None:
    """torch.load, as soon as torch is there: it has an unpickler of its own."""
    original = builtins.__import__

    def importing(name, *arguments, **named):
        module = original(name, *arguments, **named)
        torch = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "load") and not getattr(torch, "_guarded", False):
            spec = getattr(torch, "__spec__", None)
            if spec is None or not getattr(spec, "_initializing", False):
                torch._guarded = True
                torch.load = replaced("torch.load", torch.load)
        return module

    builtins.__import__ = importing


def audit(event: str, arguments: tuple) -> None:
    """Python's audit event, which unpicklers written in C raise too."""
    if event == "pickle.find_class":
        refuse(f"find_class {arguments[0]}.{arguments[1]}")


(FOLDER / f"started-{os.getpid()}").write_text(" ".join(sys.orig_argv))
guard_pickle()
guard_torch()
sys.addaudithook(audit)
