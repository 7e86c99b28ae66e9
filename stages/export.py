"""Export: models/checkpoint -> models/onnx, reports/export.json; fails where the graphs disagree with torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from clipline import tracking
from clipline.config.run import Run, load_run
from clipline.data.prepared import Prepared, Split
from clipline.errors import CliplineError, first_line
from clipline.export.export import export_model
from clipline.train import checkpoint
from stages.common import resume_run, run_stage, say

CHECKPOINT, ONNX, REPORT = Path("models/checkpoint"), Path("models/onnx"), Path("reports/export.json")


def main() -> None:
    """Export both graphs, measure them against torch, and log them into the model's run."""
    run, data, images = load_run(), Prepared(Path("data/prepared")), Path("data/raw/images")
    try:
        report = export_model(CHECKPOINT, checkpoint.load(CHECKPOINT), data, images, ONNX, run.params.export)
    except CliplineError as error:
        _log_failure(run, error)
        raise
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    with resume_run(run, "export") as tracked:
        tracked.log_metrics(metrics(report), step=0)
        tracked.log_artifact(REPORT)
        tracked.log_bundle(ONNX, tags={"test_fingerprint": fingerprint(data.split("test"), images)})
        tracked.set_tags({"gates": "passed"})
    for name in ("image", "text"):
        for precision, measured in report[name].items():
            say(describe(name if precision == "fp32" else f"{name}.{precision}", measured))
    say(f"R@1, onnxruntime minus torch: {report['test']['delta_r1']}")


def _log_failure(run: Run, error: CliplineError) -> None:
    """Log the failure, so that the run's model is not promoted. A store that cannot be used must not hide `error`."""
    try:
        with resume_run(run, "export") as tracked:
            tracked.set_tags({"gates": f"failed: {first_line(error)}"})
            raise error
    except tracking.TrackingError as unusable:
        say(str(unusable))
    except CliplineError:
        return


def metrics(report: dict[str, Any]) -> dict[str, float]:
    """The metrics of reports/export.json: R@k of the exported graphs, parity of each, R@1 of the other precisions."""
    values = {f"onnx_{name}": value for name, value in report["test"]["onnx"].items()}
    for graph in ("image", "text"):
        values |= {f"{graph}_{key}": report[graph]["fp32"][key] for key in ("min_cosine", "max_abs")}
    for precision, measured in report["image"].items():
        if precision != "fp32" and "test" in measured:
            values |= {f"onnx_{precision}_{key}": measured["test"][key] for key in ("i2t_r1", "t2i_r1")}
            values[f"image_{precision}_min_cosine"] = measured["min_cosine"]
    return values


def fingerprint(split: Split, images: Path) -> str:
    """Hash of the split's image files and captions. R@k of two models is comparable where it is the same.

    The dataset's fingerprint would not do: it covers pixels and tokens, which change with the recipe's image size and
    tokenizer. images: the folder of the raw files.
    """
    digest = hashlib.sha256()
    captions = zip(split.caption_image, split.captions, strict=True)
    texts = sorted((split.image_names[image], caption) for image, caption in captions)
    for name in sorted(split.image_names):
        digest.update(f"{name}\0".encode() + hashlib.sha256((images / name).read_bytes()).digest())
    for name, caption in texts:
        digest.update(f"{name}\0{caption}\0".encode())
    return digest.hexdigest()[:16]


def describe(name: str, measured: dict[str, Any]) -> str:
    """One line about one graph of reports/export.json."""
    line = f"{name}.onnx: "
    if not measured["shipped"]:
        line += f"not shipped: {measured['why']}. "
    if "min_cosine" in measured:
        size = measured["bytes"] / 1e6
        line += f"min cosine {measured['min_cosine']:.7f}, max abs {measured['max_abs']:.1e}, {size:.1f} MB"
    if "images_per_second" in measured:
        line += f", {measured['images_per_second']:,} images/s on this CPU"
    if "delta_r1" in measured:
        line += ", R@1 minus fp32's " + " and ".join(f"{value:+}" for value in measured["delta_r1"].values())
    if measured.get("layers_in_float"):
        line += f", {len(measured['layers_in_float'])} of {measured['layers']} layers in float"
    return line


if __name__ == "__main__":
    run_stage(main)
