"""A hub that has nothing but pickles, asked by a real process. The imports alone take long: `make test-pipeline`."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from clipline.model.text_tower import build_text_tower


class Hub(BaseHTTPRequestHandler):
    """A hub whose models have pickled weights alone. asked: the files that were fetched."""

    files: dict[str, bytes] = {}
    asked: list[str] = []

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        self.asked.append(f"{self.command} {name}")
        data = self.files.get(name)
        self.send_response(200 if data is not None else 404)
        if data is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", f'"{name}"')
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        if body and data:
            self.wfile.write(data)

    def log_message(self, *_):
        pass


BUILD = """
import json, sys
from clipline.config.base import validate
from clipline.config.recipe import Recipe
from clipline.errors import CliplineError
from clipline.model.image_tower import build_image_tower
from clipline.model.text_tower import build_text_tower
recipe = validate(Recipe, json.loads(sys.argv[1]), "r")
for build in (lambda: build_image_tower(recipe, load=True), lambda: build_text_tower(recipe, 100)):
    try:
        build()
    except CliplineError as error:
        print("ERROR", error)
"""


def test_a_hub_that_offers_pickles(make_recipe, pickled, tmp_path):
    """Both libraries fall back to pytorch_model.bin by themselves; transformers also asks a service to convert it."""
    folder = tmp_path / "bert"
    build_text_tower(make_recipe(), 100).net.save_pretrained(folder)
    Hub.files = {"config.json": (folder / "config.json").read_bytes(), "pytorch_model.bin": pickled}
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    image = {"tower": "timm", "name": "resnet18.a1_in1k", "weights": "hub", "trainable": True}
    text = {"text.weights": "hub", "text.name": "someone/bert", "text.args": {}, "inputs.tokenizer": {"kind": "tower"}}
    recipe = make_recipe({"image": image, **text}).model_dump(mode="json")
    address = f"http://127.0.0.1:{server.server_port}"
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", BUILD, json.dumps(recipe)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
    finally:
        server.shutdown()
    lines = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
    assert len(lines) == 2, done.stderr[-3000:]
    assert "image.weights" in lines[0] and "pickled weights" in lines[0]
    assert "text.weights" in lines[1] and "model.safetensors" in lines[1]
    assert not (tmp_path / "executed").exists()
    # timm fetches the file, and may not read it; transformers neither fetches it nor asks the service: no POST.
    assert Hub.asked.count("GET pytorch_model.bin") == 1 and Hub.asked.count("HEAD pytorch_model.bin") == 1
