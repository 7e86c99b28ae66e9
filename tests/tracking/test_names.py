"""Names and values before they are sent."""

from __future__ import annotations

import numpy as np
import pytest

from clipline.tracking import TrackingError
from clipline.tracking.names import MAX_PARAM, check_metrics, check_name, check_tags, flatten

LEGAL = ["train_loss", "val/R1", "lr.image", "a b", "image-tower", "été", "x" * 250]
ILLEGAL = ["recall@1", "", "a//b", "/a", "../a", "a/../b", "a:b", "loss(x)", ".", "a/", "x" * 251]


@pytest.mark.parametrize("name", LEGAL)
def test_what_we_take_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric, _validate_param, _validate_tag

    assert check_name(name, "metric") == name
    _validate_metric(name, 1.0, 0, 0)
    _validate_param(name, "x")
    _validate_tag(name, "x")


@pytest.mark.parametrize("name", ILLEGAL)
@pytest.mark.parametrize("kind", ["metric", "param", "tag"])
def test_illegal_names_stop(name: str, kind: str) -> None:
    check = {"metric": check_metrics, "param": flatten, "tag": check_tags}[kind]
    with pytest.raises(TrackingError, match=f"{kind} name"):
        check({name: 1})


def test_flatten() -> None:
    settings = {
        "train": {"lr": 1e-4, "epochs": 3, "clip": None, "normalize": True, "betas": [0.9, 0.999]},
        "image": {"kind": "vit", "extra": {}},
        "split": "official",
    }
    assert flatten(settings) == {
        "train.lr": "0.0001",
        "train.epochs": "3",
        "train.clip": "null",
        "train.normalize": "true",
        "train.betas": "[0.9, 0.999]",
        "image.kind": "vit",
        "image.extra": "{}",
        "split": "official",
    }


def test_flatten_refuses_two_meanings_of_a_key() -> None:
    with pytest.raises(TrackingError, match=r"'a\.b' occurs twice"):
        flatten({"a": {"b": 1}, "a.b": 2})


def test_long_values_are_cut_with_a_warning_and_still_compare(capsys: pytest.CaptureFixture) -> None:
    start = "x" * 7000
    one, other = (flatten({"note": start + end})["note"] for end in ("a", "b"))
    assert len(one) == len(other) == MAX_PARAM
    assert one != other
    assert "param note has 7,001 characters" in capsys.readouterr().err


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(3), float("nan")])
def test_numbers_are_metrics(value: float) -> None:
    assert isinstance(check_metrics({"m": value})["m"], float)


@pytest.mark.parametrize("value", ["high", None, [1, 2], {}])
def test_other_things_are_not(value: object) -> None:
    with pytest.raises(TrackingError, match="metric m is not a number"):
        check_metrics({"m": value})
