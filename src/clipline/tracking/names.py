"""Settings, metrics and tags in the form that an MLflow store accepts.

Limits: mlflow/utils/validation.py. Names are checked here, before anything is sent, so that a bad one stops
the run at once and is never silently changed: a changed name could not be compared with other runs.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from clipline.tracking.messages import TrackingError, say

MAX_NAME = 250
MAX_PARAM = 6000
MAX_TAG = 5000  # older servers hold no more
# Legal on every platform; MLflow also takes a colon, but not on Windows.
LEGAL = re.compile(r"[/\w.\- ]+")


def check_name(name: str, what: str) -> str:
    """`name` unchanged. Raises TrackingError where MLflow would refuse it; `what` is metric, param or tag."""
    # The store may use a name as a path, so it must not resolve to another one.
    is_plain = posixpath.normpath(name) == name and not name.startswith(("/", "..")) and name != "."
    if not (LEGAL.fullmatch(name) and is_plain):
        allowed = "letters, digits, spaces and _ - . with / between"
        raise TrackingError(f"{what} name {name!r} is illegal in MLflow; allowed: {allowed}")
    if len(name) > MAX_NAME:
        raise TrackingError(f"{what} name {name[:40]!r}… is {len(name)} long; MLflow's limit is {MAX_NAME}")
    return name


def flatten(settings: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as one level of text with dotted keys: {"train": {"lr": 1e-4}} -> {"train.lr": "0.0001"}.

    None becomes `null` and truth values `true` and `false`, as YAML spells them; lists become JSON. A value
    over MLflow's limit is cut, with a warning, and ends in its length and hash, so that runs still compare.
    Raises TrackingError for an illegal or repeated key.
    """
    flat: dict[str, str] = {}
    for key, value in _leaves(settings, ""):
        if check_name(key, "param") in flat:
            raise TrackingError(f"param {key!r} occurs twice: once nested, once with a dot in its name")
        flat[key] = cut(f"param {key}", value, MAX_PARAM)
    return flat


def _leaves(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, bool | Mapping | list | tuple):
            yield f"{prefix}{name}", json.dumps(value, ensure_ascii=False, default=str)
        else:
            yield f"{prefix}{name}", str(value)


def cut(what: str, text: str, limit: int) -> str:
    """`text`, cut to `limit` characters with a warning where it is longer."""
    if len(text) <= limit:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    end = f"… [{len(text)} characters, sha256 {digest}]"
    say(f"{what} has {len(text):,} characters and is cut to {limit:,}, MLflow's limit")
    return text[: limit - len(end)] + end


def check_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags as text, cut where too long. Raises TrackingError for an illegal name."""
    return {check_name(k, "tag"): cut(f"tag {k}", str(v), MAX_TAG) for k, v in tags.items()}


def check_metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as floats (numpy and torch scalars too). Raises TrackingError for bad names and non-numbers."""
    checked = {}
    for name, value in values.items():
        try:
            checked[check_name(name, "metric")] = float(value)
        except (TypeError, ValueError):
            raise TrackingError(f"metric {name} is not a number: {value!r}") from None
    return checked
