"""Images behind URLs: a local S3 server, a local web server, and fsspec's memory."""

import functools
import http.server
import os
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.util import find_spec

import pytest

from clipline.embed.item import MAX_BYTES, Stat
from clipline.embed.sources import remote
from clipline.embed.sources.remote import Remote, RemoteItem
from clipline.errors import CliplineError, UsageError

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (extra `remote`)")
KEYS = {
    "photos/b.JPG": b"b",
    "photos/a/z.png": b"z",
    "photos/a-b/x.webp": b"x",
    "photos/a.jpg": b"a",
    "photos/a/notes.txt": b"no image",
    "photos/.hidden.jpg": b"hidden",
    "photos/.thumbnails/a.jpg": b"hidden",
    "photos/empty.png": b"",
    "photos-2/other.jpg": b"not below photos/",
    "photos/'quote' \".jpg": b"1",
    "photos/caf\u00e9 100%25 #?&=+.jpg": b"2",
}
BELOW = sorted(
    [
        *("a-b/x.webp", "a.jpg", "a/z.png", "b.JPG", "empty.png", "'quote' \".jpg"),
        "caf\u00e9 100%2525 #?&=+.jpg",
    ]
)


@pytest.fixture(scope="module")
def s3_server():
    """The address of an S3 server of our own."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed (extra `dev`)")
    pytest.importorskip("s3fs", reason="s3fs is not installed (extra `remote`)")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """A client for that server, with a bucket `shop` that holds KEYS."""
    import boto3
    import s3fs

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="shop")
    for key, data in KEYS.items():
        client.put_object(Bucket="shop", Key=key, Body=data)
    yield client
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/moto-api/reset", method="POST")).close()
    s3fs.S3FileSystem.clear_instance_cache()


def test_s3_in_order_with_size_and_time(s3):
    source = Remote("s3://shop/photos/")
    items = list(source)
    assert [item.path for item in items] == BELOW
    assert {item.path: item.read() for item in items}["'quote' \".jpg"] == b"1"
    assert {item.path: item.read() for item in items}["caf\u00e9 100%2525 #?&=+.jpg"] == b"2"
    now = datetime.now(UTC).timestamp()
    assert all(0 <= now - item.stat().mtime_ns / 1e9 < 120 for item in items)
    assert {item.path: item.stat().bytes for item in items}["empty.png"] == 0
    assert source.root == "s3://shop/photos"
    assert list(source) == items


def test_s3_a_whole_bucket_and_patterns(s3):
    assert [item.path for item in Remote("s3://shop")] == sorted(
        ["photos-2/other.jpg", *(f"photos/{path}" for path in BELOW)]
    )
    assert [item.path for item in Remote("s3://shop", include=["*.png"], exclude=["photos/a"])] == ["photos/empty.png"]


def test_s3_a_changed_object_has_another_time(s3):
    def stats() -> dict[str, Stat]:
        return {item.path: item.stat() for item in Remote("s3://shop/photos")}

    before = stats()
    assert before == stats()
    time.sleep(1.1)  # S3's times are whole seconds
    s3.put_object(Bucket="shop", Key="photos/a.jpg", Body=b"A")
    after = stats()
    assert [path for path in before if before[path] != after[path]] == ["a.jpg"]


def test_s3_more_keys_than_one_page_read_by_threads(s3):
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    names = [f"{index:05}.jpg" for index in range(2100)]
    for name in names:  # into the server's own store: over its network 2,100 take half a minute
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object("shop", f"many/{name}", name.encode())
    items = list(Remote("s3://shop/many"))
    assert [item.path for item in items] == names
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(RemoteItem.read, items[:200])) == [name.encode() for name in names[:200]]


def test_s3_an_object_that_vanishes_is_an_os_error(s3):
    items = list(Remote("s3://shop/photos"))
    s3.delete_object(Bucket="shop", Key="photos/a.jpg")
    gone = next(item for item in items if item.path == "a.jpg")
    with pytest.raises(OSError, match=r"^not found$"):
        gone.read()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://no-such-bucket/photos", "nothing there"),
        ("s3://no-such-bucket", "nothing there"),
        ("s3://shop/nothing", "nothing there"),
        ("s3://shop/phot", "nothing there"),
        ("s3://shop/photos/a.jpg", "is one file"),
        ("s3://shop/photos/*.jpg", "no patterns in a URL"),
    ],
)
def test_s3_what_is_not_there(s3, url, message):
    with pytest.raises(UsageError, match=rf"^{url.replace('*', '.')}: {message}.*Fix: "):
        Remote(url)


def test_s3_no_credentials(s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UsageError, match=r"^s3://shop/photos: no access: .*Fix: set AWS_PROFILE"):
        list(Remote("s3://shop/photos"))


@pytest.mark.timeout(120)
def test_s3_a_server_that_is_not_there(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(CliplineError, match=r"^s3://shop/photos: cannot be listed: .*127\.0\.0\.1:9"):
        list(Remote("s3://shop/photos"))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    broken = ()

    def log_message(self, *_):
        pass

    def do_GET(self):
        if any(part in self.path for part in self.broken):
            self.send_error(500)
        else:
            super().do_GET()


@pytest.fixture
def web(tmp_path):
    """A folder, and the URL under which a web server lists it."""
    folder = tmp_path / "web"
    handler = type("Handler", (_Quiet,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name in ("b.jpg", "a/z.png", "a-b/x.webp", "a.png", "notes.txt", ".hidden.png", "a b \u00e9.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    os.utime(folder / "b.jpg", (1_700_000_000, 1_700_000_000))
    yield folder, f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_http(web):
    pytest.importorskip("aiohttp", reason="aiohttp is not installed (extra `remote`)")
    _, url, _ = web
    items = {item.path: item for item in Remote(url)}
    assert list(items) == ["a%20b%20%25C3%25A9.jpg", "a-b/x.webp", "a.png", "a/z.png", "b.jpg"]
    assert items["b.jpg"].stat() == Stat(5, 1_700_000_000 * 10**9)
    assert items["a/z.png"].read() == b"a/z.png"
    assert items["a%20b%20%25C3%25A9.jpg"].read() == "a b \u00e9.jpg".encode()
    assert [item.path for item in Remote(f"{url}/a/")] == ["z.png"]
    assert [item.path for item in Remote(url, exclude=["a", "a-b", "*.jpg"])] == ["a.png"]


def test_http_errors(web):
    pytest.importorskip("aiohttp", reason="aiohttp is not installed (extra `remote`)")
    folder, url, handler = web
    with pytest.raises(UsageError, match="nothing there"):
        Remote(f"{url}/nowhere")
    with pytest.raises(UsageError, match="is one file"):
        Remote(f"{url}/b.jpg")
    items = {item.path: item for item in Remote(url)}
    (folder / "a.png").unlink()
    handler.broken = ("b.jpg", "a-b")
    for path, message in (("a.png", "^not found$"), ("b.jpg", "500")):
        with pytest.raises(OSError, match=message):
            items[path].read()
    source = Remote(url)
    with pytest.raises(CliplineError, match="cannot be listed: 500"):  # and not: passed over
        list(source)


def test_http_links_in_a_circle_end(web):
    pytest.importorskip("aiohttp", reason="aiohttp is not installed (extra `remote`)")
    folder, url, _ = web
    (folder / "a" / "round").symlink_to(folder / "a")
    paths = [item.path for item in Remote(f"{url}/a")]
    assert paths == ["round/" * depth + "z.png" for depth in reversed(range(len(paths)))]
    assert 2 <= len(paths) <= remote.MAX_DEPTH + 2


def test_memory():
    files = fsspec.filesystem("memory")
    for key, data in KEYS.items():
        files.pipe_file(f"/test-remote/{key}", data)
    try:
        items = list(Remote("memory://test-remote/photos"))
        assert [item.path for item in items] == BELOW
        assert [item.read() for item in items if item.path == "a/z.png"] == [b"z"]
        age = time.time() - items[0].stat().mtime_ns / 1e9
        assert 0 <= age < 60
        files.pipe_file("/test-remote/photos/line\nbreak.jpg", b"1")
        assert {item.path: item.read() for item in Remote("memory://test-remote/photos")}["line\nbreak.jpg"] == b"1"
        with pytest.raises(UsageError, match="nothing there"):
            Remote("memory://test-remote/nothing")
    finally:
        files.rm("/test-remote", recursive=True)


def test_too_large_is_not_fetched():
    class Files:
        def cat_file(self, name):
            raise AssertionError("fetched")

    with pytest.raises(OSError, match="is over the limit"):
        RemoteItem("a.jpg", "b/a.jpg", Files(), Stat(MAX_BYTES + 1, 0)).read()


def test_what_is_not_installed_or_known(monkeypatch):
    with pytest.raises(UsageError, match=r"^nonsense://x: Protocol not known: nonsense"):
        Remote("nonsense://x")
    if not find_spec("adlfs"):
        with pytest.raises(UsageError, match=r"^abfs://x/y: needs another package: Install adlfs"):
            Remote("abfs://x/y")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    # As in a process that has not used S3 yet.
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UsageError, match=r"s3fs is not installed. Fix: pip install 'clipline\[remote\]'"):
        Remote("s3://x/y")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match=r"fsspec is not installed. Fix: pip install 'clipline\[remote\]'"):
        Remote("s3://x/y")


@pytest.mark.parametrize("secret", ["me:hidden@", "hidden@", "me:hid/den@", ":hidden@"])
def test_a_password_stays_out_of_the_manifest(secret):
    source = Remote.__new__(Remote)
    with pytest.raises(UsageError) as caught:
        source.__init__(f"nonsense://{secret}host/photos")
    assert "hid" not in str(caught.value) and "den@" not in str(caught.value)
    assert source.root == "nonsense://host/photos"


@pytest.mark.parametrize(
    ("time", "nanoseconds"),
    [
        (datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), 1704164645678901000),
        (datetime(2024, 1, 2, 3, 4, 5), 1704164645000000000),
        ("2024-01-02T03:04:05.678Z", 1704164645678000000),
        ("Tue, 02 Jan 2024 03:04:05 GMT", 1704164645000000000),
        (1704164645, 1704164645000000000),
        (1704164645.5, 1704164645500000000),
        ("yesterday", 0),
        (float("nan"), 0),
        (-1, 0),
        (None, 0),
        (["x"], 0),
    ],
)
def test_times(time, nanoseconds):
    assert remote._stat({"size": 3, "mtime": time}) == Stat(3, nanoseconds)
