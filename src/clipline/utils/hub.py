"""Downloads from the Hugging Face hub that fail within seconds where there is no network.

huggingface_hub retries a server that does not answer for minutes. So one short request first tests whether the hub
answers; if not, huggingface_hub's offline mode is switched on, and later calls use its cache or fail at once.
"""

from __future__ import annotations

import functools
import http.client
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from clipline.errors import CliplineError, UsageError, first_line, missing_extra

ANSWER_SECONDS = 5.0


@functools.cache
def reachable() -> bool:
    """Whether the hub answers, tested once per process. If not, offline mode is switched on."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT):
        return True
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # for processes started from here
    return False


def _answers(url: str) -> bool:
    """Whether `url` answers anything within ANSWER_SECONDS."""
    answered = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # an error, but the hub sent it
        except (OSError, http.client.HTTPException):
            return
        answered.append(True)

    # In a thread, since name resolution ignores the timeout, and each of a host's addresses may take all of it.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return bool(answered)


def fetch(name: str, any_of: Sequence[str], also: Sequence[str], key: str, fix: str) -> Path:
    """Download those of the files `any_of` and `also` that the model `name` has on the hub; returns their folder.

    any_of: files of which at least one is needed. key: the setting that names the model, and fix: what to change, both
    for the error message. Raises CliplineError where the files cannot be downloaded, and UsageError where `name` is no
    valid hub id.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HFValidationError,
            HTTPError,
            RepositoryNotFoundError,
        )
    except ImportError:
        raise missing_extra("huggingface_hub", "train") from None
    online = reachable()
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*any_of, *also]))
    except HFValidationError:
        raise UsageError(f"{key}: {name!r} is no hub id (owner/name)") from None
    except GatedRepoError:
        reason = f"{name} is gated: accept its terms on the hub, then set HF_TOKEN"
    except RepositoryNotFoundError:
        reason = f"the hub has no {name}, or it is private (then set HF_TOKEN)"
    except (OSError, HTTPError) as error:
        reason = f"the hub failed: {first_line(error)}" if online else _unreachable(name)
    else:
        if any((folder / file).is_file() for file in any_of):
            return folder
        reason = f"the hub's {name} has none of {', '.join(any_of)}" if online else _unreachable(name)
    raise CliplineError(f"{key}: {reason}. Fix: {fix}")


def _unreachable(name: str) -> str:
    from huggingface_hub import constants

    return f"the hub ({constants.ENDPOINT}) is offline or HF_HUB_OFFLINE is set, and {name} is not in its cache"
