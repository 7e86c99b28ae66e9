"""`--engine ray` on a real Ray cluster of this machine: it writes what the local engine writes, even if workers die."""

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest

from clipline.embed.item import FileItem
from clipline.embed.on_ray import cluster, engine
from clipline.embed.on_ray.cluster import LOCAL, Cluster, Shape, prepare
from clipline.embed.on_ray.engine import RayEngine
from clipline.embed.on_ray.worker import Job, Work, Worker
from clipline.embed.run import Options, embed
from clipline.embed.sources.folder import Folder
from clipline.errors import CliplineError, UsageError
from clipline.runtime.model import OnnxModel
from tests import factories

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'clipline[ray]'"),
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    """A cluster with 2 CPUs, whose workers log to this file each batch of the model: their process and its images.

    A file `slow` beside it makes each take 50 ms, a file `deadly` kills the worker.
    """
    prepare(LOCAL)
    import ray

    file = tmp_path_factory.mktemp("notes") / "notes"
    file.touch()

    def slow_down():  # nested, so that it is sent to the workers by value
        from clipline.runtime.model import OnnxModel

        embed = OnnxModel.embed_pixels

        def slow(self, pixels):
            with file.open("a") as stream:
                stream.write(f"{os.getpid()} {int(pixels.any(axis=(1, 2, 3)).sum())}\n")
            if file.with_name("deadly").exists():
                os.kill(os.getpid(), 9)
            time.sleep(0.05 * file.with_name("slow").exists())
            return embed(self, pixels)

        OnnxModel.embed_pixels = slow

    folder = tempfile.mkdtemp(prefix="clipline-test-")  # pytest's own are too long for the names of sockets
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": slow_down},
        _temp_dir=folder,
    )
    yield file
    ray.shutdown()
    shutil.rmtree(folder)


@pytest.fixture
def noted(notes):
    """Called, it gives the cluster's batches of this test so far: (process, images in it)."""
    before = len(notes.read_text().splitlines())

    def batches() -> list[tuple[int, int]]:
        return [tuple(map(int, line.split())) for line in notes.read_text().splitlines()[before:]]

    return batches


@pytest.fixture
def model(bundle):
    return OnnxModel(bundle, provider="cpu", threads=1)


def run(folder, model, out, cluster=None, **options):
    engine = partial(RayEngine, cluster=cluster) if cluster else None
    return embed(Folder(folder, skip=out), model, out, Options(engine=engine, batch_size=4, part_rows=30, **options))


TWO = Cluster(provider="cpu", threads=1)


@pytest.fixture
def many(tmp_path) -> Path:
    """400 images, some with the same bytes or broken: 25 blocks."""
    folder, rng = tmp_path / "many", np.random.default_rng(0)
    for index in range(390):
        factories.save(
            folder / f"{index:03d}.png", tuple(int(c) for c in rng.integers(0, 256, 3)), (20 + index % 9, 20)
        )
    for index in range(5):
        shutil.copy(folder / f"{index:03d}.png", folder / f"{index + 300:03d}-copy.png")
        (folder / f"{index + 100:03d}-broken.jpg").write_text(f"no image {index // 2}")
    return folder


def contents(out: Path) -> dict[str, bytes]:
    """Parts and errors, bit for bit."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def test_it_writes_what_the_local_engine_writes(many, model, tmp_path, noted):
    (many / "gone.png").symlink_to(tmp_path / "nowhere.png")
    factories.save(many / "grey.png", (90, 90, 90))
    local = run(many, model, tmp_path / "local")
    summary = run(many, model, tmp_path / "out", TWO)
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    assert len(list((tmp_path / "out").glob("data/part-*"))) == 14
    for name in ("images", "embedded", "copies", "unchanged", "errors", "rows", "parts", "failures"):
        assert getattr(summary, name) == getattr(local, name), name
    assert (summary.errors, summary.copies) == (7, 5)
    assert "Ray, 2 workers: CPU, 1 thread" in str(summary)
    assert len({process for process, _ in noted()}) == 2
    assert all(summary.clock.seconds[stage] > 0 for stage in ("read", "decode", "model", "write"))
    assert summary.clock.threads["model"] == 2


def test_a_restart_sends_only_what_is_new(many, model, tmp_path, noted, monkeypatch):
    run(many, model, tmp_path / "out", TWO)
    before = contents(tmp_path / "out")
    first = len(noted())
    (many / "100-broken.jpg").unlink()
    for index in range(10):  # dates alone
        os.utime(many / f"{index:03d}.png", (1, 1))
    factories.save(many / "new.png", (1, 2, 3))
    shutil.copy(many / "020.png", many / "new-copy.png")  # of a row from before
    factories.save(many / "030.png", (3, 2, 1))
    summary = run(many, model, tmp_path / "out", TWO)
    assert (summary.embedded, summary.copies, summary.replaced, summary.unchanged) == (2, 1, 1, 394)
    assert sum(images for _, images in noted()[first:]) == 3
    after = contents(tmp_path / "out")
    assert [name for name in before if after[name] != before[name]] == [
        "data/part-00000.parquet",  # the new dates' rows are in the last one
        "data/part-00001.parquet",
        "data/part-00013.parquet",
        "errors.parquet",
    ]
    monkeypatch.setattr(engine, "Worker", None)
    for index in range(4):  # they are tried again, and are all that there is to do
        (many / f"{index + 101:03d}-broken.jpg").unlink()
    assert run(many, model, tmp_path / "out", TWO).unchanged == 397


def test_nothing_new_needs_no_cluster(photos, model, tmp_path):
    run(photos, model, tmp_path / "out")
    summary = run(photos, model, tmp_path / "out", Cluster("10.255.255.1:6379"))
    assert summary.unchanged == 12
    assert "Ray, which was not needed" in str(summary)


def test_workers_that_are_killed_lose_nothing(many, model, tmp_path, notes, noted):
    notes.with_name("slow").touch()
    run(many, model, tmp_path / "local")
    killed = []

    def kill():
        for done in (10, 45):
            while len(seen := [process for process, _ in noted() if process not in killed]) < done - 10 * len(killed):
                time.sleep(0.01)
            os.kill(seen[-1], signal.SIGKILL)
            killed.append(seen[-1])

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        run(many, model, tmp_path / "out", TWO)
        killer.join()
    finally:
        notes.with_name("slow").unlink()
    assert len(set(killed)) == 2
    assert len({process for process, _ in noted()}) >= 3
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    # A dead worker's block, and those that it had finished but not returned.
    assert 390 < sum(images for _, images in noted()) <= 390 + 2 * 4 * 4 * engine.BATCHES


def test_a_block_that_kills_every_worker(photos, model, tmp_path, notes, monkeypatch):
    monkeypatch.setattr(engine, "RETRIES", 1)
    notes.with_name("deadly").touch()
    try:
        with pytest.raises(CliplineError, match=r"Ray gave up on a block of images: Actor.*run again"):
            run(photos, model, tmp_path / "out", TWO)
    finally:
        notes.with_name("deadly").unlink()
    assert run(photos, model, tmp_path / "out", TWO).rows == 12


def test_several_rounds_of_a_relative_folder(many, model, tmp_path, monkeypatch):
    """Workers have another working folder."""
    monkeypatch.chdir(tmp_path)
    many = many.relative_to(tmp_path)
    run(many, model, tmp_path / "local")
    monkeypatch.setattr(engine, "MIN_BLOCKS", 1)
    run(many, model, tmp_path / "out", TWO)
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


def test_a_model_that_workers_do_not_see(photos, make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "models" / "onnx")
    model = OnnxModel(folder, provider="cpu")
    assert model.variant
    shutil.rmtree(folder)
    with pytest.raises(UsageError, match=r"Ray node .*manifest\.json: no such file.*storage that all nodes share"):
        run(photos, model, tmp_path / "out", TWO)
    make_bundle(folder, model_id="other")
    with pytest.raises(UsageError, match=r"Ray node .*holds another model"):
        run(photos, model, tmp_path / "out", TWO)


def test_clusters_that_cannot(photos, model, tmp_path, notes):
    with pytest.raises(UsageError, match=r"no node of the Ray cluster has a GPU\. Fix: --provider cpu"):
        run(photos, model, tmp_path / "out", Cluster(provider="cuda"))
    with pytest.raises(UsageError, match="no node of the Ray cluster has 3 CPUs: they have 2"):
        run(photos, model, tmp_path / "out", Cluster(provider="cpu", threads=3))


def test_without_a_batch_size_the_workers_take_the_usual_one(photos, bundle, model, tmp_path, monkeypatch):
    """A block has four batches, of the size that is usual for the workers' provider."""
    seen, asked = [], []

    def blocks(given):
        seen.extend(given)
        raise CliplineError("seen")

    monkeypatch.setattr("ray.data.from_blocks", blocks)
    monkeypatch.setattr(engine, "Job", lambda *args: asked.append(args[-1]) or Job(*args))
    monkeypatch.setattr(engine, "USUAL_BATCH", {"cpu": 1, "cuda": 2})
    for provider, sizes in (("cuda", [8, 4]), ("cpu", [4, 4, 4])):
        shape = Shape(1, 1, 0, provider)
        monkeypatch.setattr(Cluster, "connected", lambda cluster, shape=shape: contextlib.nullcontext(shape))
        with pytest.raises(CliplineError, match="seen"):
            embed(Folder(photos), model, tmp_path / "out", Options(engine=partial(RayEngine, cluster=Cluster())))
        worker = Worker(Job(bundle, model.model_id, model.variant, "cpu", 1, 2))
        done = [pickle.loads(worker(table)["done"][0].as_py()) for table in seen]
        assert [len(block.results) for block in done] == sizes
        seen.clear()
    assert asked == [2, 1]


def test_images_that_workers_do_not_see(bundle, model, tmp_path):
    worker = Worker(Job(bundle, model.model_id, model.variant, "cpu", 1, 4))
    work = Work([FileItem("a.jpg", str(tmp_path / "elsewhere" / "a.jpg"))], set())
    with pytest.raises(UsageError, match=r"Ray node .*elsewhere: no such folder.*storage that all nodes share"):
        worker.embed(work)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray-address", "auto"], "do nothing without --engine ray"),
        (["--engine", "ray", "--batch-size", "auto"], "auto would measure this machine"),
        (["--engine", "ray", "--precision", "auto"], "auto would measure this machine"),
        (["--engine", "ray", "--ray-address", "ray://10.255.255.1:10001"], "does not work through Ray Client"),
        (["--engine", "ray", "--ray-address", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1: [Errno 111] Connection"),
        (["--engine", "ray", "--ray-address", "head"], "no Ray cluster at head: not of the form HOST:PORT"),
    ],
)
def test_options_that_cannot_be(photos, bundle, tmp_path, options, message):
    command = [sys.executable, "-c", "from clipline.cli import main; main()", "embed", str(photos), "--model", bundle]
    result = subprocess.run(
        [*command, "--out", tmp_path / "out", *options], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_without_ray(monkeypatch):
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"ray is not installed. Fix: pip install 'clipline\[ray\]'"):
        Cluster()


def test_how_workers_share_a_cluster():
    def node(cpus, gpus=0, alive=True):
        return {"Alive": alive, "Resources": {"CPU": float(cpus), **({"GPU": float(gpus)} if gpus else {})}}

    nodes = [node(0), node(16), node(10), node(64, alive=False)]
    assert Cluster(provider="cpu").shape(nodes) == (6, 4, 0, "cpu")
    assert Cluster(provider="cpu", threads=5, workers=3).shape(nodes) == (3, 5, 0, "cpu")
    assert Cluster(provider="cuda").shape([*nodes, node(16, 1), node(64, 8)]) == (9, 8, 1, "cuda")


def test_the_command_starts_ray_here_and_leaves_nothing(photos, bundle, model, tmp_path):
    """Without output of Ray, and with no port open to the network."""
    run(photos, model, tmp_path / "local")
    temporary = Path(tempfile.mkdtemp(prefix="c-"))
    arguments = ["embed", photos, "--model", bundle, "--out", tmp_path / "out", "--engine", "ray", "--threads", "1"]
    options = ["--batch-size", "4", "--part-rows", "30", "--provider", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from clipline.cli import main; main()", *map(str, arguments), *options],
        env={**{name: value for name, value in os.environ.items() if "RAY" not in name}, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    family, listening = {}, set()
    while process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            family[child.pid] = child
            with contextlib.suppress(psutil.Error):  # gone meanwhile
                listening |= {socket.laddr.ip for socket in child.net_connections("tcp") if socket.status == "LISTEN"}
        time.sleep(0.2)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "12 embeddings in 1 part" in stdout
    assert all(line.startswith("embedding: ") for line in stderr.splitlines()), stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    assert listening
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert not psutil.wait_procs(family.values(), timeout=10)[1]
    assert {path.name for path in temporary.iterdir()} <= {".ses"}  # onnxruntime's own
    shutil.rmtree(temporary)
