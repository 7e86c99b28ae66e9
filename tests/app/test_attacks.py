"""What the real server answers to those who ask for more than the page does: nothing that should not be served."""

import http.client
import io
import json
import re
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from PIL import Image

from tests.app import album_files


class Asker:
    """Raw requests: no client tidies the path up on the way."""

    def __init__(self, url: str) -> None:
        self.address = urlsplit(url)

    def __call__(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str):
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=30)
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        if body is not None:
            headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer, data


@pytest.fixture(scope="module")
def ask(server) -> Asker:
    return Asker(server[0])


@pytest.fixture(scope="module")
def person(server, bench):
    """A browser's session with the page open."""
    visitor = bench.Person(server[0])
    visitor.shown = visitor.open()
    return visitor


@pytest.fixture(scope="module")
def edition(person) -> str:
    return re.search(r"pictures/thumb/(\w+)/0\"", person.shown["html"])[1]


def test_images_of_the_folder_are_served(ask, hostile, edition):
    _, rows = hostile
    for name in ("000.png", "link-in.png"):
        answer, data = ask(f"/pictures/full/{edition}/{rows[name]}")
        assert (answer.status, answer.getheader("content-type")) == (200, "image/png")
        assert data == (hostile[0] / "photos" / name).read_bytes()
        assert "sandbox" in answer.getheader("content-security-policy")
        assert answer.getheader("x-content-type-options") == "nosniff"
        answer, data = ask(f"/pictures/thumb/{edition}/{rows[name]}")
        assert answer.status == 200
        assert Image.open(io.BytesIO(data)).format == "JPEG"
    answer, data = ask(f"/pictures/full/{edition}/{rows['scan.tif']}")
    assert answer.getheader("content-type") == "image/jpeg", "browsers show no TIFF"
    assert Image.open(io.BytesIO(data)).size == (30, 20)


@pytest.mark.parametrize("kind", ["thumb", "full"])
def test_rows_that_lead_elsewhere_are_not(ask, hostile, edition, kind):
    _, rows = hostile
    reasons = {
        "../outside/secret.png": "outside", "folder-out/secret.png": "outside", "link-out.png": "outside",
        "x/../../outside/secret.png": "not on disk", "/etc/passwd": "outside", "circle.png": "not on disk",
        "folder.png": "not on disk", "gone.png": "not on disk", "a" * 5000: "not on disk", "page.png": "cannot be read",
        "cut.png": "cannot be read" if kind == "thumb" else None,
    }  # fmt: skip
    for name, reason in reasons.items():
        answer, data = ask(f"/pictures/{kind}/{edition}/{rows[name]}")
        if reason is None:  # the file as it is: a browser shows what there is of it
            assert answer.getheader("content-type") == "image/png"
            continue
        assert (answer.status, answer.getheader("content-type")) == (404, "image/svg+xml"), name
        assert reason.encode() in data, name
        assert b"root:" not in data


@pytest.mark.parametrize(
    "row", ["-1", "99999", "999999999999", "9" * 40, "0x1", "1.0", "1e3", "%00", "0%2f..", "..", "٣", "1'--", "nan", ""]
)
def test_rows_that_are_none(ask, edition, row):
    for kind in ("thumb", "full"):
        answer, data = ask(f"/pictures/{kind}/{edition}/{quote(row, safe='%')}")
        assert answer.status in (404, 422), data
        assert b"PNG" not in data


def test_an_edition_that_is_none(ask):
    for name in ("0" * 12, "x", "..", "%2e%2e", "A" * 33):
        assert ask(f"/pictures/full/{name}/0")[0].status == 404


TRAVERSALS = [
    "/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd", "/....//....//etc/passwd",
    "/%252e%252e%252fetc/passwd", "/..\\..\\etc\\passwd", "/%c0%ae%c0%ae/etc/passwd", "//etc/passwd",
    "/pictures/full/../../../../etc/passwd", "/pictures/full/%2fetc%2fpasswd", "/static/../../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/assets/..%2f..%2f..%2f..%2fetc/passwd", "/assets//etc/passwd",
    "/static//etc/passwd", "/gradio_api/file=/etc/passwd", "/gradio_api/file=../../../../etc/passwd",
    "/gradio_api/file/etc/passwd", "/file=/etc/passwd", "/file/etc/passwd", "/gradio_api/file=file:///etc/passwd",
    "/gradio_api/file=C:/Windows/win.ini", "/gradio_api/stream/a/b/1/playlist-file", "/gradio_api/proxy=file:///etc/passwd",
    "/custom_component/a/b/c/..%2f..%2fetc/passwd", "/gradio_api/custom_component/1/client/component/..%2fx",
    "/svelte/..%2f..%2f..%2fetc/passwd", "/theme.css/../../etc/passwd", "file:///etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_reaches_a_file(ask, path):
    answer, data = ask(path)
    assert answer.status in (400, 403, 404), data[:200]
    assert b"root:" not in data


def test_own_files_are_not_served_by_path(ask, hostile):
    folder = hostile[0]
    for file in (folder / "photos" / "000.png", folder / "index2" / "manifest.json", folder / "onnx" / "image.onnx"):
        for form in (f"/gradio_api/file={file}", f"/file={file}", f"{file}", f"/gradio_api/file={quote(str(file))}"):
            assert ask(form)[0].status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"), ("GET", "/gradio_api/proxy=http://127.0.0.1:1/"), ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/openapi.json"), ("POST", "/gradio_api/component_server"), ("GET", "/monitoring"),
        ("GET", "/gradio_api/runs"), ("POST", "/gradio_api/run/predict"), ("POST", "/gradio_api/call/search"),
        ("POST", "/gradio_api/vibe-edit/"), ("GET", "/gradio_api/dev/reload"), ("POST", "/login"), ("GET", "/docs"),
        ("GET", "/openapi.json"), ("GET", "/gradio_api/file=http://127.0.0.1:1/x"), ("GET", "/gradio_api/mcp/sse"),
        ("GET", "/gradio_api/deep_link"), ("PUT", "/pictures/upload"), ("DELETE", "/"), ("POST", "/"),
        ("GET", "/pwa_icon"), ("POST", "/gradio_api/process_recording"), ("TRACE", "/"),
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_closed(ask, method, path):
    assert ask(path, method, b"" if method in ("POST", "PUT") else None)[0].status in (404, 405)


def test_other_hosts_and_other_sites(ask):
    port = ask.address.port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "0.0.0.0"):
        assert ask("/", Host=host)[0].status == 421, host
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST"):
        assert ask("/", Host=host)[0].status == 200, host
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1"):
        assert ask("/gradio_api/queue/join", "POST", b"{}", Origin=origin)[0].status == 403, origin
    assert ask("/pictures/upload", "POST", b"x", Origin=f"http://127.0.0.1:{port}")[0].status == 422


def test_the_page_may_load_from_nowhere_else(ask):
    answer, _ = ask("/")
    policy = answer.getheader("content-security-policy")
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "http" not in policy and "*" not in policy
    assert answer.getheader("referrer-policy") == "no-referrer"


def upload(ask, body: bytes, **headers) -> tuple[int, str]:
    answer, data = ask("/pictures/upload", "POST", body, **headers)
    return answer.status, json.loads(data)["error"] if answer.getheader("content-type") == "application/json" else ""


def png(width: int, height: int) -> bytes:
    """A PNG file that claims a size, with hardly any pixels in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty file"),
        (b"hello", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "not an image"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 500, "cannot"),
        (png(9000, 9000), "over the limit of 64,000,000"),
        (png(60_000, 60_000), "exceeds limit"),
        (png(500, 500), "cannot decode"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n", "cannot be used"),
    ],
)
def test_uploads_that_are_no_good(ask, body, words):
    status, error = upload(ask, body)
    assert status == 422
    assert words in error


def test_uploads_that_are_too_large(ask, server):
    answer, _ = ask("/pictures/upload", "POST", None, Content_Length=str(21 * 2**20))
    assert answer.status == 413
    # One that does not say so is cut off on the way.
    with socket.create_connection((ask.address.hostname, ask.address.port), timeout=30) as line:
        line.sendall(b"POST /pictures/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
        try:
            for _ in range(30):
                line.sendall(piece)
            line.sendall(b"0\r\n\r\n")
        except OSError:
            pass  # it hung up, as it may
        else:
            assert b" 413 " in line.recv(4096).split(b"\r\n")[0]
    assert server[1].poll() is None


def test_calls_that_are_too_large(ask):
    assert ask("/gradio_api/queue/join", "POST", b"[" * (2**18 + 1))[0].status == 413
    assert ask("/gradio_api/queue/join", "POST", b"[" * 2**17, Content_Type="application/json")[0].status in (400, 422)


@pytest.mark.parametrize(
    "value",
    [
        {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
        {"html": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}},
        {"path": "http://127.0.0.1:1/x", "url": "http://127.0.0.1:1/x", "meta": {"_type": "gradio.FileData"}},
        [{"path": "/etc/passwd", "orig_name": "x", "meta": {"_type": "gradio.FileData"}}],
    ],
)
def test_calls_that_name_files(person, bench, value):
    with pytest.raises(bench.RefusedError):
        person.call("results-next", "click", [value])


@pytest.mark.parametrize(
    "picture",
    [
        "",
        "row:0:0",
        "../../etc/passwd",
        "upload:nobody",
        "row:x:-1",
        "/etc/passwd",
        "upload:../../x",
        "<script>",
        7,
        None,
    ],
)
def test_pictures_that_are_none(person, picture):
    _, slot, near, *_ = person.call("results", "use", [], {"picture": picture})
    assert slot["picture"] == ""
    assert 'class="trouble"' in near["html"]
    assert "<script>" not in near["html"] + slot["html"]


@pytest.mark.parametrize("shown", [{}, {"page": "x"}, {"about": "words:", "page": 10**30}, {"page": -(10**9)}])
def test_pages_that_are_none(person, shown):
    assert "tiles" in person.call("results-next", "click", [shown])[0]["html"]
    assert "trouble" in person.call("results-next", "click", [shown | {"about": 5}])[0]["html"]


def test_names_are_text(person, hostile, edition):
    _, rows = hostile
    shown = person.call("results", "use", [], {"picture": f"row:{edition}:{rows[album_files.SCRIPT]}"})[2]
    assert "&lt;img src=x" in shown["html"]
    assert "<img src=x" not in shown["html"]
    shown = person.call("query", "submit", ["<script>alert(1)</script>"])[1]
    assert "<script>" not in shown["html"]


def test_people_do_not_see_each_others_answers(server, bench):
    def live(number: int) -> None:
        person, queries = bench.Person(server[0]), [f"red {number} {turn}" for turn in range(5)]
        person.open()
        for query in queries:
            shown = person.call("query", "submit", [query])[1]
            assert f"“{query}”" in shown["html"]
            shown = person.call("results-next", "click", [shown])[0]
            assert f"“{query}”" in shown["html"] and shown["page"] == 1

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(live, range(8))) == [None] * 8


def test_slow_senders_do_not_hold_the_page(ask, person):
    lines = [socket.create_connection((ask.address.hostname, ask.address.port), timeout=30) for _ in range(40)]
    for line in lines:
        line.sendall(b"POST /pictures/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nx")
    assert "tiles" in person.call("query", "submit", ["red"])[1]["html"]
    assert ask("/pictures/upload/nobody")[0].status == 404
    for line in lines:
        line.close()


def test_the_server_is_alive_after_all_this(ask, server):
    assert ask("/")[0].status == 200
    assert server[1].poll() is None
    status = Path(f"/proc/{server[1].pid}/status")
    if status.exists():
        assert int(re.search(r"Threads:\s+(\d+)", status.read_text())[1]) < 80
