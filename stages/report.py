"""Report: what all stages wrote -> reports/index.html for people, reports/model_card.md for the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from clipline import tracking
from clipline.config.run import load_run
from clipline.data.prepared import Prepared
from clipline.report import card, facts, page
from clipline.utils.files import atomic
from stages.common import run_stage, say

RECEIPT, HISTORY = Path("models/run.json"), Path("reports/train.csv")
PAGE, CARD = Path("reports/index.html"), Path("reports/model_card.md")


def main() -> None:
    """Write the page and the card, and log both into the model's run."""
    run, data = load_run(), Prepared(Path("data/prepared"))
    found = facts.gather(Path(), data, run.params.export.model_dump())
    for path, text in ((PAGE, page.render(found, data, Path())), (CARD, card.render(found))):
        with atomic(path) as file:
            file.write(text.encode())
    with tracking.resume(
        RECEIPT, experiment=run.params.tracking.experiment, stage="report", history=HISTORY
    ) as tracked:
        for path in (PAGE, CARD):
            tracked.log_artifact(path)
    say(f"{PAGE}: {PAGE.stat().st_size / 1e6:.1f} MB, open it in a browser; {CARD}")


if __name__ == "__main__":
    run_stage(main)
