"""models/run.json: written for people and programs, and refused where it is not what was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipline.errors import UsageError
from clipline.tracking.receipt import DatasetFacts, Receipt

RECEIPT = Receipt(
    run_id="a1-b2_c3",
    name="tiny",
    started=1_700_000_000_123,
    params={"train.seed": "0"},
    tags={"recipe": "tiny"},
    dataset=DatasetFacts(name="scenes", digest="f00d", source="data/raw", profile={"train": {"images": 60}}),
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "models" / "run.json"
    for _ in range(2):
        RECEIPT.write(path)
        assert Receipt.read(path) == RECEIPT
    text = path.read_text()
    assert text.startswith('{\n  "run_id": "a1-b2_c3",\n') and text.endswith("}\n")


def test_a_file_of_an_older_clipline_has_no_seal(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(RECEIPT.model_dump_json())
    assert Receipt.read(path) == RECEIPT


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace("tiny", "tinx", 1), "not what was written: its own hash is another"),
        (lambda text: text.replace('"seal"', '"sale"'), "Extra inputs are not permitted"),
        (lambda text: text[:-10], "Unterminated string|Expecting"),
        (lambda text: json.dumps([1]), "Input should be a valid dictionary|indices must be integers"),
        (lambda text: RECEIPT.model_dump_json().replace("a1-b2_c3", "a1/b2"), "String should match pattern"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, change, why: str) -> None:
    path = tmp_path / "run.json"
    RECEIPT.write(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(UsageError, match=why) as caught:
        Receipt.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: damaged (") and message.endswith(f"). Mend: dvc checkout {path}")
    assert "\n" not in message


def test_none_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.json: no such file\. The train stage writes it: dvc repro train"):
        Receipt.read(tmp_path / "run.json")
