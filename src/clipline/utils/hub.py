"""The Hugging Face hub, asked in a way that fails in seconds where there is no network.

huggingface_hub retries a silent server for minutes. One short question first settles whether the hub answers;
if it does not, the hub's offline mode is switched on, so that everything later is served from its cache or
fails at once.
"""

from __future__ import annotations

import functools
import http.client
import os
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from clipline.errors import CliplineError, UsageError, first_line, missing_extra

ANSWER_SECONDS = 5.0


@functools.cache
def reachable() -> bool:
    """Whether the hub answers, asked once per process. If not, its offline mode is on from then on."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT):
        return True
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # for processes started from here
    return False


def _answers(url: str) -> bool:
    """Whether `url` answers anything within ANSWER_SECONDS."""
    answer: queue.Queue[bool] = queue.Queue()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_SECONDS).close()
        except urllib.error.HTTPError:
            answer.put(True)  # an error, but the hub's own
        except (OSError, http.client.HTTPException):
            answer.put(False)
        else:
            answer.put(True)

    # In a thread, since name resolution heeds no timeout and each of a host's addresses may take all of it.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        return False


def fetch(name: str, any_of: Sequence[str], also: Sequence[str], key: str, fix: str) -> Path:
    """The local folder with those of the files `any_of` and `also` that the model `name` has on the hub.

    any_of: one of them at least is needed. key: the setting that named the model, and fix: what else it may
    say; both are for the error.
    Raises CliplineError where the files cannot be had, UsageError where `name` can be no hub id.
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
