"""The page's own routes: images by row number, and uploads. No path ever comes from the browser."""

from __future__ import annotations

import asyncio
from html import escape
from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response

from clipline.app import pictures
from clipline.app.guard import TooLargeError
from clipline.app.library import GoneError, Library
from clipline.app.pictures import Thumbnails
from clipline.app.uploads import MAX_BYTES, Uploads
from clipline.embeddings.paths import printable
from clipline.errors import CliplineError

# Uploads whose bytes are in memory at once, and how long a slow sender may hold one of those places.
AT_ONCE, SECONDS = 8, 60
# An image opened in a tab of its own runs and loads nothing, whatever the file holds.
INERT = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
# An address names one state of the folder, so what it shows never changes.
KEPT = {"Cache-Control": "private, max-age=86400, immutable", **INERT}
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#0f766e"/>'
    '<circle cx="14" cy="14" r="6" fill="none" stroke="#fff" stroke-width="3"/>'
    '<path d="M19 19l6 6" stroke="#fff" stroke-width="3" stroke-linecap="round"/></svg>'
)
Edition = Annotated[str, Path(max_length=32)]
Row = Annotated[int, Path(ge=0, lt=10**12)]


def add(app: FastAPI, library: Library, uploads: Uploads) -> None:
    """Give `app` the routes /pictures/... and the icon."""
    router, thumbnails, places = APIRouter(prefix="/pictures"), Thumbnails(), asyncio.Semaphore(AT_ONCE)

    @router.get("/thumb/{edition}/{row}")
    def thumb(edition: Edition, row: Row) -> Response:
        return Response(thumbnails.get(library.edition(edition), row), media_type="image/jpeg", headers=KEPT)

    @router.get("/full/{edition}/{row}")
    def full(edition: Edition, row: Row) -> Response:
        file = library.edition(edition).file(row)
        media_type, data = pictures.original(file)
        if data is not None:
            return Response(data, media_type=media_type, headers=KEPT)
        return FileResponse(
            file, media_type=media_type, headers=KEPT, content_disposition_type="inline",
            filename=printable(file.name),
        )  # fmt: skip

    @router.get("/upload/{token}")
    def uploaded(token: str) -> Response:
        return Response(uploads.get(token).thumbnail, media_type="image/jpeg", headers=KEPT)

    @router.post("/upload")
    async def upload(request: Request) -> Response:
        async with places:
            try:
                async with asyncio.timeout(SECONDS):
                    data = await request.body()
            except TooLargeError:
                return _no(413, f"This file is over the limit of {MAX_BYTES // 2**20} MB.")
            except TimeoutError:
                return _no(408, "The upload took too long.")
            try:
                token = await run_in_threadpool(lambda: uploads.add(data, library.now().model))
            except CliplineError as error:
                return _no(422, str(error))
        return JSONResponse({"picture": f"upload:{token}"})

    app.include_router(router)
    app.add_exception_handler(GoneError, _gone)

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(ICON, media_type="image/svg+xml")


async def _gone(request: Request, error: GoneError) -> Response:
    """404 with a picture that says why: browsers show it where the image would be."""
    drawn = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="480" height="360" viewBox="0 0 480 360">'
        '<rect width="480" height="360" fill="#88888822"/><text x="240" y="186" text-anchor="middle" fill="#888" '
        f'font-family="system-ui, sans-serif" font-size="22">{escape(str(error))}</text></svg>'
    )
    return Response(drawn, 404, media_type="image/svg+xml", headers={"Cache-Control": "no-store", **INERT})


def _no(status: int, words: str) -> Response:
    return JSONResponse({"error": words}, status)
