"""The model in MLflow: the runtime's very numbers, no pickle, no torch, over HTTP too."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image

from clipline.runtime.model import OnnxModel
from clipline.tracking.clip_model import save
from tests.helpers import free_port
from tests.tracking.conftest import BIN

TEXTS = ["a red picture", "a blue picture", "green"]


@pytest.fixture(scope="module")
def saved(bundle, tmp_path_factory) -> Path:
    """The bundle as an MLflow model, as the export stage logs it."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    save(bundle, folder, Model(), dim=3)
    return folder


@pytest.fixture(scope="module")
def loaded(saved) -> mlflow.pyfunc.PyFuncModel:
    return mlflow.pyfunc.load_model(str(saved))


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    """More images than one batch holds: JPEG, PNG and WebP of noise on red, green and blue."""
    rng, files = np.random.default_rng(0), []
    for index in range(19):
        pixels = rng.integers(0, 60, (20 + index, 30, 3)).astype(np.uint8)
        pixels[..., index % 3] += 190
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, ["jpeg", "png", "webp"][index % 3])
        files.append(file.getvalue())
    return files


@pytest.fixture(scope="module")
def expected(bundle, files) -> np.ndarray:
    """What clipline's own runtime makes of them."""
    model = OnnxModel(bundle)
    pixels = np.stack([model.preprocess.read(file)[0] for file in files])
    return np.concatenate([model.embed_pixels(pixels[:16]), model.embed_pixels(pixels[16:])])


def test_images_as_bytes_and_as_base64(loaded, files, expected):
    as_bytes = loaded.predict(pd.DataFrame({"image": files}))
    assert as_bytes.dtype == np.float32
    np.testing.assert_array_equal(as_bytes, expected)
    np.testing.assert_allclose(np.linalg.norm(as_bytes, axis=1), 1, atol=1e-6)
    as_text = loaded.predict(pd.DataFrame({"image": [base64.b64encode(file).decode() for file in files]}))
    np.testing.assert_array_equal(as_text, expected)


def test_texts(loaded, bundle):
    vectors = loaded.predict(pd.DataFrame({"text": TEXTS}))
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, OnnxModel(bundle).embed_texts(TEXTS))


def test_nothing_in_nothing_out(loaded):
    for name in ("image", "text"):
        assert loaded.predict(pd.DataFrame({name: pd.Series([], dtype=object)})).shape == (0, 3)


def test_a_column_without_values_counts_as_absent(loaded, expected, files):
    frame = pd.DataFrame({"image": files, "text": None}).astype(object)
    np.testing.assert_array_equal(loaded.predict(frame), expected)


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"image": [b"x"], "text": ["a"]}, "give a column `image` .* or a column `text`; found both"),
        ({"picture": [b"x"]}, "found neither"),
        ({"image": [None]}, "found neither"),
        ({"image": ["RED", b"no image"]}, "image in row 0: "),
        ({"image": ["//8=", "AAAA"]}, "image in row 0: not an image that Pillow can read"),
        ({"image": [7]}, "image in row 0: should be a file's bytes, or these as base64; found int"),
        ({"text": ["a", None]}, "text in row 1 is of type "),
    ],
)
def test_bad_input_is_one_clear_error(loaded, columns, why):
    with pytest.raises(MlflowException, match=why):
        loaded.predict(pd.DataFrame(columns).astype(object))


def test_a_broken_image_names_its_row(loaded, files):
    with pytest.raises(MlflowException, match="image in row 17: cannot decode") as refused:
        loaded.predict(pd.DataFrame({"image": [*files[:17], files[0][:300]]}))
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"  # 400 over HTTP


def test_no_pickle_and_what_else_is_stored(saved, bundle):
    stored = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    assert not [name for name in stored if Path(name).suffix in {".pkl", ".pickle", ".pt", ".pth", ".pyc"}]
    for graph in ("image.onnx", "text.onnx", "manifest.json", "preprocess.json", "tokenizer.json"):
        assert (saved / "artifacts" / bundle.name / graph).read_bytes() == (bundle / graph).read_bytes()
    assert {"served.py", "code/clipline/runtime/model.py", "requirements.txt"} <= stored

    model = Model.load(str(saved))
    assert [(column.name, str(column.type), column.required) for column in model.signature.inputs] == [
        ("image", "DataType.binary", False),
        ("text", "DataType.string", False),
    ]
    (output,) = model.signature.outputs
    assert (output.type, output.shape) == (np.dtype("float32"), (-1, 3))
    example = model.load_input_example(str(saved))
    assert list(example) == ["text"]
    needed = {line.partition("==")[0] for line in (saved / "requirements.txt").read_text().splitlines()}
    assert {"mlflow", "numpy", "pillow", "pydantic", "tokenizers", "onnxruntime"} <= needed
    assert not needed & {"torch", "timm", "transformers", "onnx", "onnxruntime-gpu", "dvc"}


def test_it_needs_neither_torch_nor_an_installed_clipline(saved):
    program = """
        import sys

        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {"torch", "torchvision", "transformers", "timm", "onnx", "dvc"}:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, Absent())
        sys.path = [path for path in sys.path if not path.endswith("/src")]
        import mlflow.pyfunc, pandas

        model = mlflow.pyfunc.load_model(sys.argv[1])
        print(model.predict(pandas.DataFrame({"text": ["red"]})).argmax())
        import clipline, pathlib

        assert pathlib.Path(clipline.__file__).is_relative_to(sys.argv[1]), clipline.__file__
        assert not {"torch", "transformers", "timm", "onnx"} & set(sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(saved)]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=saved)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0"]
    assert "Warning" not in done.stderr


@pytest.fixture(scope="module")
def address(saved) -> Iterator[str]:
    """A real `mlflow models serve` of the model."""
    port, log = free_port(), saved.parent / "serve.log"
    command = f"{BIN / 'mlflow'} models serve -m {saved} --env-manager local --host 127.0.0.1 --port {port} --workers 1"
    # The server starts `python` and `uvicorn` by name.
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    with log.open("wb") as file:
        server = subprocess.Popen(command.split(), stdout=file, stderr=file, env=environment, start_new_session=True)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/ping", timeout=5).close()
                break
            except OSError:
                if time.monotonic() > until or server.poll() is not None:
                    pytest.fail(f"mlflow models serve did not start: {log.read_text()[-2000:]}")
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def post(address: str, body: dict) -> np.ndarray:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/invocations", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return np.array(json.load(response)["predictions"], np.float32)


def test_over_http(address, bundle, saved, files, expected):
    encoded = [base64.b64encode(file).decode() for file in files]
    split = {"columns": ["image"], "data": [[text] for text in encoded]}
    np.testing.assert_array_equal(post(address, {"dataframe_split": split}), expected)
    np.testing.assert_array_equal(post(address, {"dataframe_records": [{"image": text} for text in encoded]}), expected)
    texts = OnnxModel(bundle).embed_texts(TEXTS)
    records = [{"text": text} for text in TEXTS]
    np.testing.assert_array_equal(post(address, {"dataframe_records": records}), texts)
    np.testing.assert_array_equal(post(address, {"inputs": {"text": TEXTS}}), texts)
    assert post(address, json.loads((saved / "serving_input_example.json").read_text())).shape == (1, 3)

    with pytest.raises(urllib.error.HTTPError) as refused:
        post(address, {"dataframe_records": [{"image": "AAAA"}]})
    assert refused.value.code == 400
    assert "image in row 0: not an image that Pillow can read" in refused.value.read().decode()
