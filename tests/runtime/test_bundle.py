"""The exported model's folder: reading it, and the errors of wrong files."""

import json

import pytest

from clipline.errors import UsageError
from clipline.image import Preprocess
from clipline.runtime.bundle import Bundle


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_reads_what_was_written(bundle):
    opened = Bundle(bundle)
    assert opened.manifest.model_id == "colours"
    assert opened.manifest.image["fp32"].bytes == (bundle / "image.onnx").stat().st_size
    assert opened.preprocess.make() == Preprocess(16, "shortest")
    assert opened.tokenizer.is_file()


def test_no_folder(tmp_path):
    with pytest.raises(UsageError, match=r"manifest\.json: no such file.*export stage"):
        Bundle(tmp_path / "none")


@pytest.mark.parametrize("name", ["manifest.json", "preprocess.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"size": "big"}'])
def test_damaged_json_names_the_file(make_bundle, tmp_path, name, text):
    folder = make_bundle(tmp_path / "onnx")
    (folder / name).write_text(text)
    with pytest.raises(UsageError, match=f"{name}: damaged or not a clipline file"):
        Bundle(folder)


def test_a_newer_schema_is_refused(make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "onnx")
    change(folder, "manifest.json", schema_version=2)
    with pytest.raises(UsageError, match="newer clipline"):
        Bundle(folder)


def test_another_interpolation_is_refused(make_bundle, tmp_path):
    """Resizing it as bicubic would give other pixels than the model was trained on."""
    folder = make_bundle(tmp_path / "onnx")
    change(folder, "preprocess.json", interpolation="bilinear")
    with pytest.raises(UsageError, match=r"preprocess\.json"):
        Bundle(folder)
