"""One MLflow run per trained model, over all stages. Besides stages and commands, only `registry` imports this.

The train stage calls `start`: it creates the run and writes a receipt (models/run.json, an out of the stage).
Later stages take the receipt as a dependency and `resume` the run that it names. If that run is gone (deleted
store, deleted run, another store), they share a new one that carries the tag `receipt=<old id>`, with the
params and the curves logged again. So restored caches, deleted stores and single stages run again all end in
one run.

What a stage logs is a `Record`, and `publish` brings the run to it, at each row and at the stage's end. A server that
does not answer stops no stage: the record is kept in .cache/tracking/<run id>, and the next stage of that run, or
`sync`, publishes it from there.

    with tracking.start(Path("models/run.json"), experiment="clipline", name="vit_scratch",
                        params=settings, tags=tracking.base_tags(...)) as run:
        run.log_metrics({"train_loss": 1.2}, step=3)

    with tracking.resume(Path("models/run.json"), experiment="clipline", stage="evaluate",
                         history=Path("reports/train.csv")) as run:
        run.log_metrics({"test_t2i_r1": 61.0}, step=0)

MLflow is imported when a run opens, never before: the import takes seconds.
"""

from clipline.tracking.messages import TrackingError
from clipline.tracking.receipt import DatasetInfo
from clipline.tracking.run import Run
from clipline.tracking.session import resume, start, sync
from clipline.tracking.tags import base_tags

__all__ = ["DatasetInfo", "Run", "TrackingError", "base_tags", "resume", "start", "sync"]
