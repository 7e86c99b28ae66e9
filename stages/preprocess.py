"""Stage preprocess: data/raw -> data/prepared."""

from __future__ import annotations

from pathlib import Path

from clipline.config.run import load_run
from clipline.data.prepare import prepare
from clipline.data.report import summary
from stages.common import run_stage, say


def main() -> None:
    """Prepare the dataset, and print what was kept and what was left out."""
    run = load_run()
    max_broken = run.params.preprocess.max_broken
    report = prepare(Path("data/raw"), Path("data/prepared"), run.dataset, run.recipe, max_broken=max_broken)
    say(summary(report))


if __name__ == "__main__":
    run_stage(main)
