"""Start the server of the page, and stop it cleanly."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clipline.app.library import Library
from clipline.errors import UsageError, missing_extra

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
SECONDS_TO_STOP = 1  # then connections are cut: a browser keeps one while its page is open


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UsageError where the address cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        fix = "--port 0 takes a free one" if not isinstance(error, socket.gaierror) else "name one of this machine"
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)  # strerror has the address
        raise UsageError(f"--host {host} --port {port}: {why}. Fix: {fix}") from None
    # Connections inherit it. Without it an answer in two pieces takes 40 ms longer; asyncio sets it only on sockets of
    # its own making.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def url_of(listening: socket.socket) -> str:
    """The address to open in a browser."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listening.family == socket.AF_INET else "::1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def is_public(listening: socket.socket) -> bool:
    """Whether other machines can reach it."""
    return not ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def application(library: Library, *, public: bool) -> ASGIApp:
    """The page with its routes, behind the guard. Raises UsageError where the extra is missing."""
    try:
        import gradio as gr
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "gradio", "app") from None
    from fastapi import FastAPI

    from clipline.app import page, routes
    from clipline.app.guard import Guard
    from clipline.app.theme import CSS, theme
    from clipline.app.uploads import MAX_BYTES, Uploads
    from clipline.app.views import Views

    uploads = Uploads()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    routes.add(app, library, uploads)
    gr.mount_gradio_app(
        app, page.build(library, Views(library, uploads)), path="/", theme=theme(), css_paths=CSS, footer_links=[],
        run_history=False, show_error=False, ssr_mode=False, mcp_server=False, enable_monitoring=False, pwa=False,
        allowed_paths=[], max_file_size=1,
    )  # fmt: skip
    return Guard(app, hosts=None if public else LOOPBACK, max_upload=MAX_BYTES)


@contextmanager
def quiet() -> Iterator[None]:
    """Run Gradio without settings of the shell, without telemetry, and with a folder that is removed at the end.

    onnxruntime's telemetry must be disabled before its import, during which it is sent.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="clipline-app-") as folder:
        os.environ |= {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": folder,
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "ORT_DISABLE_TELEMETRY": "1",
        }
        yield


def run(app: ASGIApp, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM. ready: called once the server answers."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            # As uvicorn's, but without raising the signal again at the end: stopping a server is not a failure.
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    config = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, proxy_headers=False, ws="none",
        timeout_graceful_shutdown=SECONDS_TO_STOP, timeout_keep_alive=30,
    )  # fmt: skip
    Server(config).run(sockets=[listening])
