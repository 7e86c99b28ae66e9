"""`clipline app` as a process: how it starts, what it says, how it ends."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request

MAIN = "from clipline.cli import main; main()"
# Prints what was imported by then.
AT_EXIT = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); "
HEAVY = {"torch", "mlflow", "dvc", "transformers"}


def command(*arguments: object, code: str = MAIN) -> list[str]:
    return [sys.executable, "-c", code, "app", *map(str, arguments)]


def refused(*arguments: object, code: str = MAIN) -> str:
    done = subprocess.run(command(*arguments, code=code), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_it_says_where_it_is_loads_nothing_heavy_and_stops_on_ctrl_c(album, tmp_path):
    (tmp_path / "scratch").mkdir()
    settings = {"GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/", "TMPDIR": str(tmp_path / "scratch")}
    server = subprocess.Popen(
        command(album / "index", "--host", "0.0.0.0", "--port", 0, code=AT_EXIT + MAIN),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | settings,
    )  # fmt: skip
    try:
        line = server.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line + server.stderr.read()
        assert line.endswith("(20 images; Ctrl-C stops)\n")
        with urllib.request.urlopen(line.split()[0], timeout=30) as page:  # it answers once it has said so
            assert b"gradio" in page.read()
        with socket.create_connection(("127.0.0.1", int(line.split("/")[2].split(":")[1]))) as held:
            held.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")  # half a request does not keep it from stopping
            server.send_signal(signal.SIGINT)
            assert server.wait(30) == 0
        errors = server.stderr.read()
        assert "warning: listening on 0.0.0.0: everyone who can reach this machine" in errors
        assert errors.endswith("stopped\n") and "Traceback" not in errors
        assert list((tmp_path / "scratch").iterdir()) == [], "nothing is left behind"
        imported = set(server.stdout.read().split())
        assert "gradio" in imported and not imported & HEAVY
    finally:
        server.kill()


def test_a_port_that_is_taken(album):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        error = refused(album / "index", "--port", port)
    assert error == f"error: --host 127.0.0.1 --port {port}: Address already in use. Fix: --port 0 takes a free one"


def test_a_host_that_is_none(album):
    assert "Fix: name one of this machine" in refused(album / "index", "--host", "nowhere.invalid")


def test_no_embeddings(tmp_path):
    assert "no such folder" in refused(tmp_path / "none", "--port", 0)


def test_a_missing_extra_is_named(album):
    error = refused(album / "index", "--port", 0, code=f"import sys; sys.modules['gradio'] = None; {MAIN}")
    assert error == "error: gradio is not installed. Fix: pip install 'clipline[app]'"


def test_help_loads_nothing_heavy():
    done = subprocess.run(command("--help", code=AT_EXIT + MAIN), capture_output=True, text=True, check=True)
    assert "--open" in done.stdout and "Ctrl-C stops it" in done.stdout
    assert not set(done.stdout.splitlines()[-1].split()) & (HEAVY | {"gradio"})
