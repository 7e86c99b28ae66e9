"""Export: models/checkpoint -> models/onnx, reports/export.json; fails where the graphs disagree with torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipline import tracking
from clipline.config.run import load_run
from clipline.data.prepared import Prepared
from clipline.onnx.export import export_model
from clipline.train import checkpoint
from stages.common import run_stage, say

CHECKPOINT, ONNX, RECEIPT = Path("models/checkpoint"), Path("models/onnx"), Path("models/run.json")
REPORT = Path("reports/export.json")


def main() -> None:
    """Export both graphs, measure them against torch, and log them into the model's run."""
    run, data = load_run(), Prepared(Path("data/prepared"))
    report = export_model(
        CHECKPOINT,
        checkpoint.load(CHECKPOINT),
        data,
        Path("data/raw/images"),
        ONNX,
        run.params.export,
    )
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    with tracking.resume(
        RECEIPT, experiment=run.params.tracking.experiment, stage="export", history=Path("reports/train.csv")
    ) as tracked:
        metrics = {f"onnx_{name}": value for name, value in report["test"]["onnx"].items()}
        for graph in ("image", "text"):
            metrics |= {f"{graph}_{key}": report[graph]["fp32"][key] for key in ("min_cosine", "max_abs")}
        for precision, figures in report["image"].items():
            if precision != "fp32" and "test" in figures:
                metrics |= {f"onnx_{precision}_{key}": figures["test"][key] for key in ("i2t_r1", "t2i_r1")}
                metrics[f"image_{precision}_min_cosine"] = figures["min_cosine"]
        tracked.log_metrics(metrics, step=0)
        tracked.log_artifact(REPORT)
        for name in ("image", "text"):
            tracked.log_onnx(ONNX / f"{name}.onnx", name=name)
    for name in ("image", "text"):
        for precision, figures in report[name].items():
            say(in_words(name if precision == "fp32" else f"{name}.{precision}", figures))
    say(f"R@1 onnxruntime less torch: {report['test']['delta_r1']}")


def in_words(name: str, figures: dict[str, Any]) -> str:
    """One line on one graph of reports/export.json."""
    words = f"{name}.onnx: "
    if not figures["shipped"]:
        words += f"not shipped: {figures['why']}. "
    if "min_cosine" in figures:
        words += (
            f"min cosine {figures['min_cosine']:.7f}, max abs {figures['max_abs']:.1e}, {figures['bytes'] / 1e6:.1f} MB"
        )
    if "images_per_second" in figures:
        words += f", {figures['images_per_second']:,} images/s on this CPU"
    if "delta_r1" in figures:
        words += ", R@1 less fp32's " + " and ".join(f"{value:+}" for value in figures["delta_r1"].values())
    if figures.get("layers_in_float"):
        words += f", {len(figures['layers_in_float'])} of {figures['layers']} layers in float"
    return words


if __name__ == "__main__":
    run_stage(main)
