"""`kind: kaggle`: a dataset downloaded with the kaggle package, resumable, then unpacked like any archive.

Importing kaggle signs in; without a token it prints a help page and, in some versions, exits the process. So it is
imported where it is used, and its errors become one short error each.
"""

from __future__ import annotations

import contextlib
import io
import os
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

# The package waits 2, 4, 8 ... seconds between retries.
RETRIES = 3
TIMEOUT_SECONDS = 60
# README.md says the same; a test compares them.
TOKEN_HELP = (
    "Make a token at https://www.kaggle.com/settings/api (Generate New Token), then `export KAGGLE_API_TOKEN=<token>` "
    "or save it as `~/.kaggle/access_token`. An older `~/.kaggle/kaggle.json`, or `KAGGLE_USERNAME` with `KAGGLE_KEY`, "
    "works too."
)
NO_TOKEN = f"Kaggle wants an API token, and no valid one was found. Fix: {TOKEN_HELP}"


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
        raise CliplineError(f"{error}. Deleted; run again to download it") from None


def _download(name: str, target: Path) -> None:
    """Download to a `.part` file beside `target`, going on where an earlier run stopped; rename it when complete."""
    try:
        import kagglesdk  # noqa: F401 (does not sign in)
    except ImportError:
        raise missing_extra("kaggle", "pipeline") from None
    part = target.with_name(target.name + ".part")
    with _network_errors(name, part), _home(target.parent):
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
def _home(scratch: Path) -> Iterator[None]:
    """Let the package take `scratch` for the home folder, unless the credentials are there.

    On import it makes its folder in the home, and looks for tokens in it, although they are in the environment: a home
    that cannot be written or read, as in containers, would fail.
    """
    given = os.environ.get("KAGGLE_API_TOKEN") or (os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY"))
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - needs no home
    folders = [os.environ.get("KAGGLE_CONFIG_DIR"), os.path.expanduser("~/.kaggle"), f"{settings}/kaggle"]  # noqa: PTH111
    if not given and any(folder and os.path.exists(folder) for folder in folders):  # noqa: PTH110 - raises nothing
        yield
        return
    before = {name: os.environ.get(name) for name in ("HOME", "KAGGLE_CONFIG_DIR")}
    os.environ.update(dict.fromkeys(before, str(scratch)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _watched(path: Path, bar: Bar) -> Iterator[None]:
    """Move `bar` as the file `path` grows, since the package shows progress only on a bar of its own."""
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
    """Return the package's client, signed in. Raises CliplineError without a valid token."""
    from kagglesdk.kaggle_env import get_access_token_from_env

    if get_access_token_from_env()[0]:
        # Importing kaggle sends this token to its server, and waits for minutes if there is no answer.
        _check_reachable()
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi

            api = KaggleApi()
            api.authenticate()
        except SystemExit:
            raise CliplineError(NO_TOKEN) from None
    _check_reachable()
    return api


def _check_reachable() -> None:
    """Fail in seconds where Kaggle cannot be reached, since the package sets no time limit."""
    import requests
    from kagglesdk.kaggle_env import KaggleEnv, get_endpoint

    requests.head(get_endpoint(KaggleEnv.PROD), timeout=(5, 10))


@contextlib.contextmanager
def _network_errors(name: str, part: Path) -> Iterator[None]:
    """Turn errors of the network, of Kaggle and of the package into one line each."""
    import requests
    import urllib3

    try:
        yield
    except requests.HTTPError as error:
        raise _refused(name, error.response.status_code, str(error)) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise CliplineError(
            f"Kaggle cannot be reached ({type(error).__name__}). Fix: check the network or proxy, then run again; what "
            "was downloaded is kept"
        ) from None
    except ValueError as error:
        # The package noticed a wrong size: what it wrote may be a server's error page.
        part.unlink(missing_ok=True)
        raise CliplineError(f"{name}: the download broke: {error}. Fix: run again") from None


def _refused(name: str, status: int, reason: str) -> CliplineError:
    if status == 401:
        return CliplineError(NO_TOKEN)
    if status == 404:
        return UsageError(f"{name}: Kaggle has no such dataset. Fix: set `path` in its settings to owner/name")
    if status == 403:
        return CliplineError(f"{name}: Kaggle refuses access (403). Fix: accept the terms on its page, then run again")
    return CliplineError(f"{name}: Kaggle answers {status}: {reason.partition(chr(10))[0]}")
