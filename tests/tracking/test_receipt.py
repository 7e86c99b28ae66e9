"""models/run.json: written for people and programs, and refused where it is not what was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from clipline.errors import UsageError
from clipline.tracking.receipt import DatasetInfo, Receipt

RECEIPT = Receipt(
    run_id="a1-b2_c3",
    name="tiny",
    started=1_700_000_000_123,
    params={"train.seed": "0"},
    tags={"recipe": "tiny"},
    dataset=DatasetInfo(name="scenes", digest="f00d", source="data/raw", profile={"train": {"images": 60}}),
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
        (
            lambda text: text.replace("tiny", "tinx", 1),
            "changed since it was written: its own checksum is missing or differs",
        ),
        (lambda text: text.replace('"seal"', '"sale"'), "Extra inputs are not permitted"),
        (lambda text: text[:-10], "Unterminated string|Expecting"),
        (lambda text: json.dumps([1]), "not a JSON object"),
        (lambda text: RECEIPT.model_dump_json().replace("a1-b2_c3", "a1/b2"), "String should match pattern"),
        (lambda text: "", "Expecting value"),
        (lambda text: "1", "not a JSON object"),
        (lambda text: '["seal"]', "not a JSON object"),
        (lambda text: '"a seal"', "not a JSON object"),
        (lambda text: "[" * 100_000, "recursion"),
        (
            lambda text: RECEIPT.model_dump_json().replace("1700000000123", '"1700000000123"'),
            "should be a valid integer",
        ),
        (lambda text: RECEIPT.model_dump_json().replace("60", '"60"'), "be a valid integer"),
        (lambda text: RECEIPT.model_dump_json().replace('"name":"scenes",', ""), "Field required"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, change, why: str) -> None:
    path = tmp_path / "run.json"
    RECEIPT.write(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(UsageError, match=why) as caught:
        Receipt.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: damaged (") and message.endswith(f"). Fix: dvc checkout {path}")
    assert "\n" not in message


def test_what_an_older_clipline_did_not_write_has_its_usual_value(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(RECEIPT.model_dump_json(exclude={"experiment", "dataset"}))
    kept = Receipt.read(path)
    assert (kept.experiment, kept.dataset) == ("clipline", None)


def test_a_file_of_a_newer_clipline_is_refused(tmp_path: Path) -> None:
    """Its unknown fields would be lost where the run is created again from it."""
    path = tmp_path / "run.json"
    path.write_text(json.dumps(RECEIPT.model_dump() | {"branch": "main"}))
    with pytest.raises(UsageError, match="Extra inputs are not permitted"):
        Receipt.read(path)


@pytest.mark.parametrize("run_id", ["a", "Z9_-", "0" * 32, "x" * 256])
def test_a_run_s_id_is_a_plain_name(tmp_path: Path, run_id: str) -> None:
    path = tmp_path / "run.json"
    RECEIPT.model_copy(update={"run_id": run_id}).write(path)
    assert Receipt.read(path).run_id == run_id


@pytest.mark.parametrize("run_id", ["", "x" * 257, "../a", "a b", "a\n", "a'b", "é"])
def test_an_id_that_could_leave_its_folder_or_its_query_is_refused(tmp_path: Path, run_id: str) -> None:
    """Records are kept in a folder of that name, and the store is searched for it."""
    path = tmp_path / "run.json"
    RECEIPT.model_copy(update={"run_id": run_id}).write(path)
    with pytest.raises(UsageError, match="String should match pattern"):
        Receipt.read(path)


def test_a_receipt_is_not_changed_once_it_is_made() -> None:
    """The run, what waits for the store and the file must name the same run."""
    for model, name in ((RECEIPT, "run_id"), (RECEIPT.dataset, "digest")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, name, "x")


def test_the_file_is_laid_out_for_people(tmp_path: Path) -> None:
    """One fact a line, so that `git diff` and `dvc diff` show what changed."""
    path = tmp_path / "run.json"
    RECEIPT.write(path)
    kept = json.loads(path.read_text())
    assert path.read_text() == json.dumps(kept, indent=2) + "\n"
    assert list(kept) == [*Receipt.model_fields, "seal"]


def test_none_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.json: no such file\. The train stage writes it: dvc repro train"):
        Receipt.read(tmp_path / "run.json")
