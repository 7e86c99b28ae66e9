# ruff: noqa: T201 - the table is what it is for
"""Fuzz each target for some minutes and print a table: `python tests/fuzz/run.py [--minutes N] [TARGET ...]`.

A crash, a hang (one input that takes over 10 s of CPU by itself) or memory over 2 GB is counted, its input kept in
.cache/fuzz/TARGET/found, and the fuzzer goes on until the time is over. Exit 1 where anything was found. New inputs
that reach more code are kept in .cache/fuzz/TARGET/corpus, so that the next run begins where this one ended.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "fuzz"
TARGETS = ("image", "archive", "captions", "manifest")
HANG_SECONDS, MEMORY_MB, LONGEST = 10, 2048, 1 << 16
_STATUS = re.compile(rb"#(\d+)\s.*cov: (\d+)")
_RSS = re.compile(rb"rss: (\d+)Mb")
_WRITTEN = re.compile(rb"Test unit written to (.+)")
# The target as users run it: the fuzzer counts each branch, which takes its time.
_ALONE = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import targets
data, begun = Path(sys.argv[3]).read_bytes(), time.process_time()
targets.TARGETS[sys.argv[2]](data)
print(time.process_time() - begun)
"""


@dataclass
class Figures:
    """Of one target. edges: of Python's branches. memory: the most, in MB."""

    inputs: int = 0
    edges: int = 0
    memory: int = 0
    minutes: float = 0.0
    found: dict[str, int] = field(default_factory=lambda: {"crash": 0, "timeout": 0, "oom": 0})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("MINUTES", "20")), help="for each target")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all without")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(unknown)}")
    if not (CACHE / "packages" / "atheris").is_dir() and importlib.util.find_spec("atheris") is None:
        parser.error("the fuzzer is not installed. Fix: `make fuzz`, which does that (it has wheels for Linux alone)")
    table = {name: fuzz(name, arguments.minutes) for name in arguments.targets or TARGETS}
    row = "{:<10}{:>12}{:>8}{:>9}{:>7}{:>11}{:>9}{:>9}".format
    print("\n" + row("target", "inputs", "edges", "crashes", "hangs", "over 2 GB", "peak MB", "minutes"))
    for name, figures in table.items():
        found = figures.found.values()
        print(row(name, figures.inputs, figures.edges, *found, figures.memory, f"{figures.minutes:.1f}"))
    return int(any(sum(figures.found.values()) for figures in table.values()))


def fuzz(name: str, minutes: float) -> Figures:
    """Run one target until its time is over, however often it is stopped by what it finds."""
    figures, end = Figures(), time.monotonic() + 60 * minutes
    folder = CACHE / name
    for part in ("corpus", "found"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    while (left := end - time.monotonic()) >= 1:
        print(f"{name}: fuzzing for {left / 60:.1f} minutes", flush=True)
        inputs, new = _run(name, folder, left, figures)
        for path in new:
            # `slow-unit`: over the limit, but it came to an end before libFuzzer looked.
            kind, _, digest = path.name.replace("slow-unit", "timeout").partition("-")
            if kind == "timeout" and (seconds := _alone(name, path)) <= HANG_SECONDS:
                # The fuzzer, or a busy machine, was slow. It would stop there again each time it begins.
                print(f"{name}: no hang, {seconds:.1f} s of CPU by itself: {digest}", flush=True)
                path.unlink()
                (folder / "corpus" / digest).unlink(missing_ok=True)
                continue
            figures.found[kind] += 1
            print(f"{name}: {kind}: {path}", flush=True)
        if not inputs and not new:
            sys.exit(f"{name}: the fuzzer does not start; see {folder / 'log.txt'}")
    figures.minutes = (time.monotonic() - start) / 60
    return figures


def _alone(name: str, path: Path) -> float:
    """Seconds of CPU that an input takes; infinite where it does not come to its end."""
    command = [sys.executable, "-c", _ALONE, str(HERE), name, str(path)]
    try:
        return float(subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return float("inf")


def _run(name: str, folder: Path, seconds: float, figures: Figures) -> tuple[int, set[Path]]:
    """One process of libFuzzer; how many inputs it tried, and what it found. Its output goes to log.txt."""
    command = [
        *(sys.executable, str(HERE / "worker.py"), name),
        *(f"-max_total_time={int(seconds)}", f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={MEMORY_MB}"),
        *(f"-max_len={LONGEST}", f"-artifact_prefix={folder / 'found'}/", "-print_final_stats=1"),
        *(str(folder / "corpus"), str(HERE / "seeds" / name)),
    ]
    packages = os.pathsep.join(filter(None, [str(CACHE / "packages"), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": packages, "OMP_NUM_THREADS": "1"}
    inputs, found = 0, set()
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, env=environment)
        for line in process.stdout:
            log.write(line)
            if status := _STATUS.search(line):
                inputs = max(inputs, int(status[1]))
                figures.edges = max(figures.edges, int(status[2]))
            if memory := _RSS.search(line):
                figures.memory = max(figures.memory, int(memory[1]))
            if written := _WRITTEN.search(line):
                found.add(Path(os.fsdecode(written[1])))
        process.wait()
    figures.inputs += inputs
    return inputs, found


if __name__ == "__main__":
    sys.exit(main())
