"""download: the dataset that params.yaml names -> data/raw."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from clipline.config.base import repository_root
from clipline.config.run import load_run
from clipline.data.sources import fetch
from stages.common import run_stage, say


def main() -> None:
    """Fetch images, captions.csv and source.json, and print how many were fetched and left out."""
    dataset = load_run().dataset
    # Without `expect`, which does not change the bytes: correcting it must not cost a second download.
    identity = dataset.model_dump(mode="json", include={"kind", "path", "source"})
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    source = fetch(dataset, Path("data/raw"), repository_root() / ".cache" / "download" / fingerprint)
    left_out = [f"{count:,} {reason.replace('_', ' ')}" for reason, count in source["skipped"].items() if count]
    more = f"; left out: {', '.join(left_out)}" if left_out else ""
    joined = source.get("captions_with_unquoted_delimiters")
    if joined:
        more += f"; {joined['count']:,} captions hold unquoted delimiters, the first in line {joined['first_lines'][0]}"
    say(f"data/raw: {source['images']:,} images with {source['captions']:,} captions{more}")


if __name__ == "__main__":
    run_stage(main)
