"""Middleware before every route: refuses other hosts, routes the page does not call and large bodies; adds headers.

Gradio has some eighty routes; the page needs a dozen. Those that read files by path, fetch addresses, accept files or
describe the server (`/file=`, `/proxy=`, `/upload`, `/stream`, `/info`, ...) cannot be reached.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = [
    ("GET", r"/"),
    ("GET", r"/(config|theme\.css|manifest\.json|favicon\.ico|robots\.txt)"),
    ("GET", r"/(assets|static)/[\w./-]+"),
    ("GET", r"/pictures/(thumb|full)/\w{1,32}/\w{1,32}"),
    ("GET", r"/pictures/upload/[\w-]{1,64}"),
    ("POST", r"/pictures/upload"),
    ("GET", r"/gradio_api/(theme\.css|startup-events|app_id|queue/data|heartbeat/\w{1,64})"),
    ("POST", r"/gradio_api/(queue/join|cancel|reset)"),
]
MAX_BODY = 2**18  # bytes of a call to Gradio, which carries a gallery's HTML; uploads have another limit
PAGE_POLICY = (
    # Gradio's templates are compiled in the browser, hence eval; nothing is loaded from another host.
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """ASGI middleware. hosts: names allowed in the Host header, without port; None allows all."""

    def __init__(self, app: ASGIApp, *, hosts: set[str] | None, max_upload: int) -> None:
        self._app, self._hosts, self._max_upload = app, hosts, max_upload
        self._open = [(method, re.compile(path)) for method, path in OPEN]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with the reason why not."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page uses no web sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        refused = self._refuse(scope)
        if refused:
            await refused(scope, receive, send)
            return
        try:
            await self._app(scope, _limited(receive, self._limit(scope)), _with_headers(send))
        except TooLargeError:
            await PlainTextResponse("too large", 413, {"Connection": "close"})(scope, receive, send)

    def _refuse(self, scope: Scope) -> PlainTextResponse | None:
        headers, method = Headers(scope=scope), "GET" if scope["method"] == "HEAD" else scope["method"]
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            # Against DNS rebinding: another site's name that points here could otherwise read everything.
            return PlainTextResponse("this host name is not served", 421)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("from another site", 403)
        known = any(method == allowed and path.fullmatch(scope["path"]) for allowed, path in self._open)
        if not known or ".." in scope["path"]:
            return PlainTextResponse("not found", 404)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._limit(scope):
            return PlainTextResponse("too large", 413, {"Connection": "close"})
        return None

    def _limit(self, scope: Scope) -> int:
        return self._max_upload if scope["path"] == "/pictures/upload" else MAX_BODY


class TooLargeError(Exception):
    """A body without Content-Length is over the limit."""


def _limited(receive: Receive, limit: int) -> Receive:
    left = limit

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise TooLargeError
        return message

    return counted


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        await send(message)

    return sent


def _name(host: str) -> str:
    """`127.0.0.1:7860` -> `127.0.0.1`, `[::1]:7860` -> `[::1]`."""
    return re.sub(r":\d*$", "", host).lower()
