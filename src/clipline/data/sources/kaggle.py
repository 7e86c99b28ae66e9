"""A Kaggle dataset through the kaggle package: token, resumed download, then unpacked as any archive.

Importing kaggle signs in, and without a token it prints a page and (by version) leaves the process. So it is
imported where it is used, and whatever goes wrong becomes one plain error.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from clipline.config.dataset import Kaggle
from clipline.data.archives.members import DamagedError
from clipline.data.sources import archive
from clipline.data.sources.raw import Collected
from clipline.errors import CliplineError, UsageError, missing_extra
from clipline.utils.progress import Bar

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

# The package waits 2, 4, 8 ... seconds between them.
RETRIES = 3
TIMEOUT_SECONDS = 60
NO_TOKEN = (
    "Kaggle asks for a token, and found none that is valid. Make one at https://www.kaggle.com/settings/api\n"
    "(Generate New Token), then `export KAGGLE_API_TOKEN=<token>` or save it in ~/.kaggle/access_token"
)


def collect(dataset: Kaggle, cache: Path) -> Collected:
    """Download the dataset's archive into `cache`, unless an earlier run did, and unpack it.

    Raises CliplineError without a token or network, or where Kaggle refuses; UsageError for an unknown name.
    """
    target = cache / f"{dataset.path.replace('/', '_')}.zip"
    if not target.exists():
        _download(dataset.path, target)
    try:
        return archive.unpack(target, dataset.expect, cache)
    except DamagedError as error:
        target.unlink()
        raise CliplineError(f"{error}\nIt is removed: run this again to download it anew") from None


def _download(name: str, target: Path) -> None:
    """Download to a `.part` beside `target`, from where an earlier run stopped; rename it when whole."""
    try:
        import kagglesdk  # noqa: F401 (does not sign in)
    except ImportError:
        raise missing_extra("kaggle", "pipeline") from None
    part = target.with_name(target.name + ".part")
    with _network_errors(name, part):
        api = _sign_in()
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = name.split("/")
        with api.build_kaggle_client() as client:
            response = client.datasets.dataset_api_client.download_dataset(request)
            total = int(response.headers.get("Content-Length", 0)) or None
            before = part.stat().st_size if part.exists() else 0
            with Bar(f"downloading {name}", total, "bytes", done=before) as bar, _watched(part, bar):
                options = {"quiet": True, "resume": True, "max_retries": RETRIES, "timeout": TIMEOUT_SECONDS}
                api.download_file(response, str(part), client.http_client(), **options)
    part.replace(target)


@contextlib.contextmanager
def _watched(path: Path, bar: Bar) -> Iterator[None]:
    """Move `bar` as `path` grows: the package tells its own progress to a bar of its own alone."""
    done = threading.Event()

    def watch() -> None:
        last = False
        while not last:
            last = done.wait(0.2)
            if path.exists():
                bar.advance(path.stat().st_size - bar.done)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _sign_in() -> KaggleApi:
    """The package's client with its token checked. Raises CliplineError."""
    from kagglesdk.kaggle_env import get_access_token_from_env

    if get_access_token_from_env()[0]:
        # Importing kaggle asks its server about this token, and waits minutes where no answer comes.
        _reach()
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi

            api = KaggleApi()
            api.authenticate()
        except SystemExit:
            raise CliplineError(NO_TOKEN) from None
    _reach()
    return api


def _reach() -> None:
    """Fail in seconds where Kaggle cannot be reached: the package sets no time limit of its own."""
    import requests
    from kagglesdk.kaggle_env import KaggleEnv, get_endpoint

    requests.head(get_endpoint(KaggleEnv.PROD), timeout=(5, 10))


@contextlib.contextmanager
def _network_errors(name: str, part: Path) -> Iterator[None]:
    """Turn what the network, Kaggle or the package answer into one line."""
    import requests
    import urllib3

    again = "What is downloaded is kept: run this again"
    try:
        yield
    except requests.HTTPError as error:
        raise _refused(name, error.response.status_code, str(error)) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise CliplineError(
            f"Kaggle cannot be reached ({type(error).__name__}). Check the network or proxy. {again}"
        ) from None
    except ValueError as error:
        # The package found a wrong size: what it wrote may hold a server's error page.
        part.unlink(missing_ok=True)
        raise CliplineError(f"{name}: the download broke: {error}. Run this again") from None


def _refused(name: str, status: int, reason: str) -> CliplineError:
    if status == 401:
        return CliplineError(NO_TOKEN)
    if status == 404:
        return UsageError(f"{name}: Kaggle has no such dataset. Set `path` in the dataset's settings to owner/name")
    if status == 403:
        return CliplineError(
            f"{name}: Kaggle refuses (403). Open its page there, accept its terms, then run this again"
        )
    return CliplineError(f"{name}: Kaggle answers {status}: {reason.partition(chr(10))[0]}")
