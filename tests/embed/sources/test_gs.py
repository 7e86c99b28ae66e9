"""Images in Google's object store, for which a local server stands in."""

import urllib.parse
import urllib.request

import pytest

from clipline.embed.sources.remote import Remote
from clipline.errors import UsageError
from tests.helpers import free_port

KEYS = {"photos/b.jpg": b"b", "photos/a/z.png": b"z", "photos/notes.txt": b"x", "photos/caf\u00e9 'x'.jpg": b"c"}


@pytest.fixture
def gs(monkeypatch):
    """A server with a bucket `shop` that holds KEYS."""
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed")
    gcsfs = pytest.importorskip("gcsfs", reason="gcsfs is not installed (extra `gcs`)")
    port = free_port()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    gcsfs.GCSFileSystem.clear_instance_cache()
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="shop")
    server.start()
    upload = f"http://127.0.0.1:{port}/upload/storage/v1/b/shop/o?uploadType=media&name="
    for key, data in KEYS.items():
        url = upload + urllib.parse.quote(key, safe="")
        request = urllib.request.Request(url, data, {"Content-Type": "image/jpeg"}, method="POST")
        urllib.request.urlopen(request).close()
    yield
    server.stop()
    gcsfs.GCSFileSystem.clear_instance_cache()


def test_gs(gs):
    items = list(Remote("gs://shop/photos"))
    assert [(item.path, item.read(), item.stat().bytes) for item in items] == [
        ("a/z.png", b"z", 1),
        ("b.jpg", b"b", 1),
        ("caf\u00e9 'x'.jpg", b"c", 1),
    ]
    assert all(item.stat().mtime_ns for item in items)
    for url, message in (
        ("gs://shop/none", "nothing there"),
        ("gs://none/x", "nothing there"),
        ("gs://shop/photos/b.jpg", "is one"),
    ):
        with pytest.raises(UsageError, match=message):
            Remote(url)
