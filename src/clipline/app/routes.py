"""Routes for images by row number, and for uploads. No path ever comes from the browser."""

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
from clipline.errors import CliplineError, printable

MAX_UPLOADS, SECONDS = 8, 60  # whose bytes are in memory at once, and how long one may take
# An image that is opened in a tab runs and loads nothing, whatever the file holds.
INERT = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
# An address names one state of the folder, so its content never changes.
CACHED = {"Cache-Control": "private, max-age=86400, immutable", **INERT}
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#0f766e"/>'
    '<circle cx="14" cy="14" r="6" fill="none" stroke="#fff" stroke-width="3"/>'
    '<path d="M19 19l6 6" stroke="#fff" stroke-width="3" stroke-linecap="round"/></svg>'
)
EditionName = Annotated[str, Path(max_length=32)]
RowNumber = Annotated[int, Path(ge=0, lt=10**12)]


def add(app: FastAPI, library: Library, uploads: Uploads) -> None:
    """Add the routes /pictures/... and the icon to `app`."""
    router, thumbnails, uploading = APIRouter(prefix="/pictures"), Thumbnails(), asyncio.Semaphore(MAX_UPLOADS)

    @router.get("/thumb/{edition}/{row}")
    def thumb(edition: EditionName, row: RowNumber) -> Response:
        return Response(thumbnails.get(library.edition(edition), row), media_type="image/jpeg", headers=CACHED)

    @router.get("/full/{edition}/{row}")
    def full(edition: EditionName, row: RowNumber) -> Response:
        file = library.edition(edition).file(row)
        media_type, data = pictures.original(file)
        if data is not None:
            return Response(data, media_type=media_type, headers=CACHED)
        return FileResponse(
            file, media_type=media_type, headers=CACHED, content_disposition_type="inline",
            filename=printable(file.name),
        )  # fmt: skip

    @router.get("/upload/{token}")
    def uploaded(token: str) -> Response:
        return Response(uploads.get(token).thumbnail, media_type="image/jpeg", headers=CACHED)

    @router.post("/upload")
    async def upload(request: Request) -> Response:
        async with uploading:
            try:
                async with asyncio.timeout(SECONDS):
                    data = await request.body()
            except TooLargeError:
                return _error(413, f"This file is over the limit of {MAX_BYTES // 2**20} MB.")
            except TimeoutError:
                return _error(408, "The upload took too long.")
            try:
                token = await run_in_threadpool(lambda: uploads.add(data, library.now().model))
            except CliplineError as error:
                return _error(422, str(error))
        return JSONResponse({"picture": f"upload:{token}"})

    app.include_router(router)
    app.add_exception_handler(GoneError, _gone)

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(ICON, media_type="image/svg+xml")


async def _gone(request: Request, error: GoneError) -> Response:
    """404 with a picture of the reason: browsers show it in the place of the image."""
    picture = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="480" height="360" viewBox="0 0 480 360">'
        '<rect width="480" height="360" fill="#88888822"/><text x="240" y="186" text-anchor="middle" fill="#888" '
        f'font-family="system-ui, sans-serif" font-size="22">{escape(str(error))}</text></svg>'
    )
    return Response(picture, 404, media_type="image/svg+xml", headers={"Cache-Control": "no-store", **INERT})


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)
