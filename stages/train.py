"""Train: data/prepared -> models/checkpoint, models/run.json, reports/train.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from clipline import tracking
from clipline.config.base import repository_root
from clipline.config.run import load_run
from clipline.data.prepared import Prepared
from clipline.model.device import pick_device
from clipline.revision import git_revision
from clipline.train import checkpoint
from clipline.train.loop import Row, Trainer
from stages.common import run_stage, say

CHECKPOINT, RECEIPT, HISTORY = Path("models/checkpoint"), Path("models/run.json"), Path("reports/train.csv")


class History:
    """reports/train.csv: a row per epoch, on disk as soon as it is known."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        path.write_text("")

    def add(self, row: Row) -> None:
        """Append a row; the first one writes the header."""
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)


def main() -> None:
    """Train the recipe on the prepared data, tracked as a new MLflow run."""
    run, data = load_run(), Prepared(Path("data/prepared"))
    device = pick_device(run.params.train.device)
    tags = tracking.base_tags(
        dataset=run.params.data, fingerprint=data.fingerprint, recipe=run.params.recipe, device=str(device)
    )
    params = tracking.flatten(
        {
            "seed": run.params.train.seed,
            "data": run.dataset.model_dump(mode="json"),
            "recipe": run.recipe.model_dump(mode="json"),
        }
    )
    with tracking.start(
        RECEIPT, experiment=run.params.tracking.experiment, name=run.params.recipe, params=params, tags=tags
    ) as tracked:
        cache = repository_root() / ".cache" / "features"
        trainer = Trainer(run.recipe, data, seed=run.params.train.seed, device=device, cache=cache)
        history = History(HISTORY)

        def on_epoch(row: Row) -> None:
            history.add(row)
            tracked.log_row(row)
            say(
                f"epoch {row['epoch']:3.0f}: train loss {row['train_loss']:.4f}, val loss {row['val_loss']:.4f}, "
                f"val R@1 i2t {row['val_i2t_r1']:.1f} t2i {row['val_t2i_r1']:.1f}, "
                f"{row['images_per_second']:,.0f} images/s"
            )

        best = trainer.fit(on_epoch)
        info = {
            "dataset": run.params.data,
            "dataset_fingerprint": data.fingerprint,
            "recipe": run.params.recipe,
            "seed": run.params.train.seed,
            "git_revision": git_revision(Path()),
            "best": best,
        }
        checkpoint.save(CHECKPOINT, trainer.model, run.recipe, data.vocab_size, info)
        tracked.log_metrics(
            {f"best_{key}": best[key] for key in ("epoch", "val_loss", "val_i2t_r1", "val_t2i_r1")}, step=0
        )
        say(f"best epoch {best['epoch']:.0f}: val R@1 i2t {best['val_i2t_r1']:.1f}, t2i {best['val_t2i_r1']:.1f}")


if __name__ == "__main__":
    run_stage(main)
