"""Report: what all stages wrote -> reports/index.html for people, reports/model_card.md for the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from clipline.config.run import load_run
from clipline.data.prepared import Prepared
from clipline.report import card, page
from clipline.report.summary import gather
from clipline.utils.files import atomic
from stages.common import resume_run, run_stage, say

PAGE, CARD = Path("reports/index.html"), Path("reports/model_card.md")


def main() -> None:
    """Write the page and the card, and log both into the model's run."""
    run, data = load_run(), Prepared(Path("data/prepared"))
    summary = gather(Path(), data, run.params.export.model_dump())
    for path, text in ((PAGE, page.render(summary, data, Path())), (CARD, card.render(summary))):
        with atomic(path) as file:
            file.write(text.encode())
    with resume_run(run, "report") as tracked:
        for path in (PAGE, CARD):
            tracked.log_artifact(path)
    say(f"{PAGE}: {PAGE.stat().st_size / 1e6:.1f} MB, open it in a browser; {CARD}")


if __name__ == "__main__":
    run_stage(main)
