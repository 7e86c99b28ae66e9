"""Export: models/checkpoint -> models/onnx, reports/export.json; fails where the graphs disagree with torch."""

from __future__ import annotations

import json
from pathlib import Path

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
        tracked.log_metrics(metrics, step=0)
        tracked.log_artifact(REPORT)
        for name in ("image", "text"):
            tracked.log_onnx(ONNX / f"{name}.onnx", name=name)
    for name in ("image", "text"):
        figures = report[name]["fp32"]
        say(
            f"{name}.onnx: min cosine {figures['min_cosine']:.7f}, max abs {figures['max_abs']:.1e}, "
            f"{figures['bytes'] / 1e6:.1f} MB"
        )
    say(f"R@1 onnxruntime less torch: {report['test']['delta_r1']}")


if __name__ == "__main__":
    run_stage(main)
