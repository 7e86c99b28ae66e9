"""Small real inputs that several suites share."""

import copy
import csv
import gc
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from clipline.config.base import validate
from clipline.config.recipe import Recipe
from clipline.utils.files import atomic_folder
from tests.factories import load_script, scenes

# As stages do, and before anything imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A shell starts background jobs with Ctrl-C ignored, nohup with hang-ups ignored, and children inherit both: tests
# of signals would then wait for what never comes.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Python's default, after 700 new objects, takes a fifth of the time of every torch export.
gc.set_threshold(100_000, 20, 20)

TINY = {
    "inputs": {
        "image_size": 32,
        "resize": "shortest",
        "max_length": 12,
        "tokenizer": {"kind": "wordpiece", "vocab_size": 100},
    },
    "image": {"tower": "vit", "patch": 8, "width": 32, "depth": 1, "heads": 2, "mlp": 48, "trainable": True},
    "text": {
        "architecture": "bert",
        "name": None,
        "weights": "random",
        "trainable": True,
        "pool": "mean",
        "args": {
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
    },
    "head": {"kind": "linear", "dim": 16},
    "temperature": {"init": 0.07, "learned": True},
    "loss": {"kind": "infonce"},
    "train": {
        "epochs": 1,
        "batch_size": 4,
        "captions": "every",
        "normalize": True,
        "optimizer": {
            "lr": {"image": 1e-3, "text": 1e-3, "head": 1e-3},
            "weight_decay": {"image": 0.1, "text": 0.2, "head": 0.3},
        },
        "schedule": {"kind": "constant"},
    },
}


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """made_once(name, make) -> a folder that make(folder) fills once for all processes of the tests. Read it only."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder = base / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                with atomic_folder(folder) as partial:
                    make(partial)
        return folder

    return once


@pytest.fixture(scope="session")
def make_recipe():
    """make_recipe({"image.pool": "last"}) -> Recipe."""

    def make(changes: dict | None = None) -> Recipe:
        values = copy.deepcopy(TINY)
        for key, value in (changes or {}).items():
            *path, last = key.split(".")
            place = values
            for part in path:
                place = place[part]
            place[last] = value
        return validate(Recipe, values, "tiny.yaml")

    return make


@pytest.fixture
def no_dropout() -> dict:
    """Changes for make_recipe: masks of dropout follow the shapes of what is computed at once."""
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {"text.args": TINY["text"]["args"] | rates}


COLOURS = {"red": (220, 30, 30), "green": (30, 170, 60), "blue": (40, 60, 220), "yellow": (240, 220, 40)}
PLACES = ("left", "right", "top", "bottom")


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """data/raw with 80 images of a coloured bar on noise, two captions each: a dataset that a tiny model can learn."""
    folder, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    (folder / "images").mkdir()
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        for index in range(80):
            colour, place = list(COLOURS)[index % 4], PLACES[index // 4 % 4]
            pixels = rng.integers(100, 140, (40, 40, 3)).astype(np.uint8)
            side = slice(0, 14) if place in ("left", "top") else slice(26, 40)
            pixels[(slice(None), side) if place in ("left", "right") else (side, slice(None))] = COLOURS[colour]
            Image.fromarray(pixels).save(folder / "images" / f"{index:03d}.png")
            writer.writerow([f"{index:03d}.png", f"a {colour} bar on the {place} number {index}"])
            writer.writerow([f"{index:03d}.png", f"the {place} shows {colour}, {index}"])
    return folder


@pytest.fixture(scope="session")
def prepared(raw, tmp_path_factory) -> Path:
    """data/prepared of `raw` at 32 px, with a tokenizer trained on it: 60 train, 10 val and 10 test images."""
    from clipline.data.prepare import prepare

    values = copy.deepcopy(TINY)
    recipe = validate(Recipe, values, "tiny.yaml")
    dataset = scenes(80, 160, val=10, test=10)
    out = tmp_path_factory.mktemp("prepared") / "prepared"
    prepare(raw, out, dataset, recipe, max_broken=0.0)
    return out


@pytest.fixture(scope="session")
def tiny_checkpoint(made_once, make_recipe, prepared) -> Path:
    """The checkpoint of a model of the tiny recipe, with random weights. Read it only."""
    import torch

    from clipline.data.prepared import Prepared
    from clipline.model.clip import build_model
    from clipline.train import checkpoint

    def make(folder: Path) -> None:
        data, recipe = Prepared(prepared), make_recipe()
        torch.manual_seed(0)
        model = build_model(recipe, data.vocab_size)
        info = {"recipe": "tiny", "dataset": "raw", "dataset_fingerprint": data.fingerprint}
        checkpoint.save(folder / "checkpoint", model, recipe, data.vocab_size, info)

    return made_once("tiny_checkpoint", make) / "checkpoint"


@pytest.fixture(scope="session")
def tiny_graphs(made_once, tiny_checkpoint) -> Path:
    """A folder with image.onnx and text.onnx of that model. Read it only."""
    from clipline.export.export import write_graphs
    from clipline.train import checkpoint

    return made_once("tiny_graphs", lambda folder: write_graphs(checkpoint.load(tiny_checkpoint).model, folder, 32, 20))


@pytest.fixture(scope="session")
def make_bundle():
    """make_bundle(folder, model_id="colours") -> folder with a real exported model that knows colours, not torch.

    An image's embedding is its mean colour less its grey, normalised; the words red, green and blue embed as
    those colours. A grey image gives a zero vector and a white one NaN.
    """

    def make(folder: Path, model_id: str = "colours") -> Path:
        from clipline.runtime.bundle import Graph, Manifest, PreprocessSpec
        from clipline.utils.checksums import write_json

        folder.mkdir(parents=True)
        graphs = {"image": _colour_image_graph(), "text": _colour_text_graph()}
        for name, model in graphs.items():
            (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
        _colour_tokenizer().save(str(folder / "tokenizer.json"))
        write_json(
            folder / "preprocess.json", PreprocessSpec(size=16, resize="shortest", mean=[0, 0, 0], std=[1, 1, 1])
        )
        sides = {}
        for name in graphs:
            data = (folder / f"{name}.onnx").read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            sides[name] = {
                "fp32": Graph(
                    file=f"{name}.onnx",
                    precision="fp32",
                    variant=f"fp32-{digest[:12]}",
                    sha256=digest,
                    bytes=len(data),
                    min_cosine=1.0,
                    max_abs=0.0,
                )
            }
        manifest = Manifest(
            model_id=model_id,
            dim=3,
            recipe="colours",
            dataset="none",
            dataset_fingerprint="none",
            opset=17,
            metrics={},
            **sides,
        )
        write_json(folder / "manifest.json", manifest)
        return folder

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle, tmp_path_factory) -> Path:
    """A folder with the model of `make_bundle`."""
    return make_bundle(tmp_path_factory.mktemp("models") / "onnx")


COLOUR_WORDS = ["[PAD]", "[UNK]", "red", "green", "blue", "a", "picture"]
LESS_GREY = (np.eye(3) - 1 / 3).astype(np.float32)


def _colour_image_graph():
    nodes = [
        ("Cast", ["pixels"], ["float"], {"to": 1}),
        ("ReduceMean", ["float"], ["mean"], {"axes": [1, 2], "keepdims": 0}),
        ("Div", ["mean", "scale"], ["colour"], {}),
        *_normalised("colour", "plain"),
        # White gives NaN, as an overflow would.
        ("ReduceMin", ["colour"], ["darkest"], {"axes": [1], "keepdims": 1}),
        ("Greater", ["darkest", "almost_white"], ["is_white"], {}),
        ("Where", ["is_white", "nan", "plain"], ["embedding"], {}),
    ]
    constants = {"scale": 255.0, "almost_white": 0.99, "nan": np.nan}
    return _colour_graph(nodes, {"pixels": (2, ["batch", "height", "width", 3])}, constants)


def _colour_text_graph():
    table = np.zeros((len(COLOUR_WORDS), 3), np.float32)
    table[2:5] = np.eye(3)
    nodes = [
        ("Gather", ["table", "input_ids"], ["words"], {"axis": 0}),
        ("Cast", ["attention_mask"], ["mask"], {"to": 1}),
        ("Unsqueeze", ["mask", "last"], ["mask_3d"], {}),
        ("Mul", ["words", "mask_3d"], ["kept"], {}),
        ("ReduceSum", ["kept", "length_axis"], ["colour"], {"keepdims": 0}),
        *_normalised("colour", "embedding"),
    ]
    constants = {"table": table, "last": np.array([2]), "length_axis": np.array([1])}
    ids = (7, ["batch", "length"])
    return _colour_graph(nodes, {"input_ids": ids, "attention_mask": ids}, constants)


def _normalised(source: str, target: str) -> list:
    """Less grey, to length 1; what is almost grey becomes zero."""
    return [
        ("MatMul", [source, "less_grey"], ["coloured"], {}),
        ("ReduceL2", ["coloured"], ["norm"], {"axes": [1], "keepdims": 1}),
        ("Div", ["coloured", "norm"], ["unit"], {}),
        ("Less", ["norm", "almost_grey"], ["is_grey"], {}),
        ("Where", ["is_grey", "zero", "unit"], [target], {}),
    ]


def _colour_graph(nodes: list, inputs: dict, constants: dict):
    from onnx import checker, helper, numpy_helper

    constants = {**constants, "less_grey": LESS_GREY, "almost_grey": 1e-3, "zero": 0.0}
    arrays = {
        name: np.asarray(value, np.float32) if not isinstance(value, np.ndarray) else value
        for name, value in constants.items()
    }
    graph = helper.make_graph(
        [helper.make_node(kind, ins, outs, **attributes) for kind, ins, outs, attributes in nodes],
        "colours",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("embedding", 1, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model, full_check=True)
    return model


def _colour_tokenizer():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = {word: index for index, word in enumerate(COLOUR_WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer.enable_truncation(8)
    return tokenizer


@pytest.fixture
def one_thread():
    """Many small tensors: torch's threads would only wait for one another."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def use_repository():
    """use_repository(root, patch): tracking works in `root` alone, and what it sets is undone with `patch`."""
    from clipline.tracking.environment import ENVIRONMENT

    def use(root: Path, patch: pytest.MonkeyPatch) -> None:
        for name in [*os.environ, *ENVIRONMENT]:
            if name.startswith(("MLFLOW_", "DVC_")):
                patch.setenv(name, "")  # so that what the code under test sets is undone as well
                patch.delenv(name)
        patch.setenv("DVC_ROOT", str(root))
        patch.chdir(root)

    return use


@pytest.fixture
def make_disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """make_disk("128k") -> folder that is a file system of its own, of that size."""
    mounted = []

    def make(size: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    if os.name != "posix" or os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("needs root to mount a tmpfs")
    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="session")
def bench() -> ModuleType:
    """bench/app.py, which starts the page's server, and does there what a person does."""
    return load_script("bench/app.py")
