"""The champion changes for a better model on the same data, and for nothing else."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import mlflow
import pytest
from mlflow import MlflowClient

from clipline.errors import UsageError
from clipline.registry.promote import Refusal
from clipline.registry.promote import promote as promote_run
from clipline.tracking.environment import use_tracking_uri
from clipline.tracking.location import tracking_uri
from tests.registry.conftest import EXPERIMENT, RECEIPT, export


def promote(run: str | None = None, *, name: str = "clipline", margin: float = 0.5, dry_run: bool = False) -> str:
    return promote_run(run, receipt=RECEIPT, experiment=EXPERIMENT, name=name, margin=margin, dry_run=dry_run)


def champion(name: str = "clipline"):
    return MlflowClient(tracking_uri()).get_model_version_by_alias(name, "champion")


def versions(name: str = "clipline") -> int:
    return len(MlflowClient(tracking_uri()).search_model_versions(f"name = '{name}'"))


def test_the_first_one_becomes_champion_and_carries_its_facts(trained):
    run = trained(50.0, 40.0)
    message = promote()
    assert message == (
        f"clipline: the champion now: version 1, from run {run}, mean R@1 45.00 (i2t 50.00, t2i 40.00); the first one"
    )
    assert champion().run_id == run
    assert champion().tags == {
        "run_id": run,
        "model_id": "colours",
        "recipe": "tiny",
        "dataset": "photos",
        "dataset_fingerprint": "f00d",
        "test_fingerprint": "7e57",
        "onnx_i2t_r1": "50.0",
        "onnx_t2i_r1": "40.0",
        "precisions": "fp32",
        "git_revision": "c0ffee",
    }


def test_a_better_one_takes_its_place_and_the_same_one_twice_changes_nothing(trained):
    first, second = trained(50.0, 40.0), trained(50.0, 41.0)
    promote(first[:8])  # as `clipline runs` shows ids
    assert promote(second) == (
        f"clipline: the champion now: version 2, from run {second}, mean R@1 45.50 (i2t 50.00, t2i 41.00); "
        "before it: version 1, mean R@1 45.00 (i2t 50.00, t2i 40.00)"
    )
    assert promote(second) == ("clipline: the champion already: version 2, mean R@1 45.50 (i2t 50.00, t2i 41.00)")
    assert (champion().run_id, versions()) == (second, 2)


def test_a_model_that_was_champion_before_keeps_its_version(trained):
    first, second = trained(50.0, 40.0), trained(60.0, 40.0)
    promote(first)
    promote(second)
    MlflowClient(tracking_uri()).delete_registered_model_alias("clipline", "champion")
    assert promote(first).startswith("clipline: the champion now: version 1, ")
    assert versions() == 2


def test_promotes_in_its_own_store_whatever_mlflow_was_told_before(trained, monkeypatch):
    run, store = trained(50.0, 40.0), tracking_uri()
    with use_tracking_uri("http://127.0.0.1:9"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
        assert promote(run).startswith("clipline: the champion now: version 1, ")
        assert mlflow.get_tracking_uri() == "http://127.0.0.1:9"


REFUSED = [
    (
        {"t2i": 40.9},
        "mean R@1 45.45 (i2t 50.00, t2i 40.90), is +0.45 points from the champion: version 1, mean R@1 45.00 (i2t "
        "50.00, t2i 40.00). The margin is 0.5 points",
    ),
    ({"t2i": 20.0}, "is -10.00 points from the champion: version 1"),
    ({"t2i": float("nan")}, "is +nan points from the champion: version 1"),
    (
        {"test": "07e4"},
        "is measured on photos (test split 07e4), the champion, version 1, on photos (test split 7e57): their R@1 "
        "cannot be compared. Fix: promote it under another --name",
    ),
    ({"gates": "failed: image.onnx: cosine 0.9"}, "did not pass its gates: failed: image.onnx: cosine 0.9"),
    ({"gates": None}, "has no exported model in sqlite:///"),
]


def test_others_are_refused_in_one_line_and_nothing_changes(trained):
    promote(trained(50.0, 40.0))
    for settings, why in REFUSED:
        run = trained(**{"i2t": 50.0, "t2i": 60.0, **settings})
        for dry_run in (True, False):
            with pytest.raises(Refusal) as refused:
                promote(run, dry_run=dry_run)
            message = str(refused.value)
            assert refused.value.exit_code == 1
            assert message.startswith(f"not promoted: run {run}")
            assert why in message
            assert "\n" not in message
        assert (champion().version, versions()) == (1, 1)


def test_a_dry_run_changes_nothing(trained):
    run = trained(50.0, 40.0)
    assert promote(run, dry_run=True).startswith(f"clipline: would become the champion: run {run}, mean R@1 45.00")
    assert MlflowClient(tracking_uri()).search_registered_models() == []


def test_a_champion_of_another_program_is_not_compared(trained):
    client, run = MlflowClient(tracking_uri()), trained(50.0, 40.0)
    client.create_registered_model("clipline")
    client.create_model_version("clipline", "file:///elsewhere")
    client.set_registered_model_alias("clipline", "champion", 1)
    with pytest.raises(Refusal, match=r"version 1 does not say how good it is: no tag onnx_i2t_r1, .*alias champion"):
        promote(run)
    assert versions() == 1


def test_an_export_again_leaves_the_registered_model_in_its_place(trained, measured):
    """The champion is loaded from its run's model: that must outlive the next one of the run."""
    client = MlflowClient(tracking_uri())
    run = trained(50.0, 40.0)
    promote()
    registered = champion().source.removeprefix("models:/")
    export(measured(50.0, 42.0))
    export(measured(50.0, 43.0))
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    kept = client.search_logged_models([experiment], f"source_run_id = '{run}'")
    assert sorted(model.tags["onnx_t2i_r1"] for model in kept) == ["40.0", "43.0"]
    assert client.get_logged_model(registered).model_id == registered
    assert "version 2, from" in promote()


def test_a_run_that_took_anothers_place_is_found(trained, measured):
    client, lost = MlflowClient(tracking_uri()), trained(50.0, 40.0)
    client.delete_run(lost)
    export(measured(50.0, 41.0))
    assert "mean R@1 45.50" in promote()
    assert champion().run_id != lost
    assert "the champion already" in promote(lost)


def test_what_is_unknown_or_misspelt(trained, repo):
    trained(50.0, 40.0)
    with pytest.raises(UsageError, match="no run begins with zz9"):
        promote("zz9")
    with pytest.raises(UsageError, match=r"no run f{32} in sqlite:///"):
        promote("f" * 32)
    with pytest.raises(UsageError, match="is not the id of an MLflow run"):
        promote("abc' OR '1")
    with pytest.raises(UsageError, match=r"should be of letters, digits, spaces and _ \. -"):
        promote(name="a/b")
    with pytest.raises(UsageError, match="--margin nan: should be 0 or more points"):
        promote(margin=float("nan"))
    RECEIPT.unlink()
    with pytest.raises(UsageError, match="The train stage writes it"):
        promote()


def test_no_store_is_made_only_to_look_into_it(empty_repo):
    with pytest.raises(UsageError, match=r"mlflow\.db: no MLflow store here"):
        promote("abc123")
    assert list(empty_repo.iterdir()) == []


def test_of_two_at_once_only_one_wins(trained):
    """Both beat the first champion; the later one is compared with the earlier one's."""
    promote(trained(10.0, 10.0))
    runs = [trained(50.0, 40.0), trained(50.0, 40.0)]
    both = threading.Barrier(2)

    def call(run: str) -> str:
        both.wait()
        try:
            return promote(run)
        except Refusal as refused:
            return str(refused)

    with ThreadPoolExecutor(2) as pool:
        lost, won = sorted(pool.map(call, runs), reverse=True)
    assert won.startswith("clipline: the champion now: version 2, ")
    assert lost.startswith("not promoted: run ")
    assert "is +0.00 points from the champion: version 2" in lost
    assert versions() == 2


def test_a_dry_run_makes_no_experiment(trained):
    run = trained(50.0, 40.0)
    message = promote_run(run, receipt=RECEIPT, experiment="another", name="clipline", margin=0.5, dry_run=True)
    assert message.startswith(f"clipline: would become the champion: run {run}")
    with pytest.raises(UsageError, match="no run"):
        promote_run("f" * 32, receipt=RECEIPT, experiment="another", name="clipline", margin=0.5, dry_run=True)
    assert MlflowClient(tracking_uri()).get_experiment_by_name("another") is None
