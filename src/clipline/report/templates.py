"""Render the two jinja2 templates of this package."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined


def fill(name: str, *, escape: bool, **values: Any) -> str:
    """Render the template `name` of this folder. escape: whether to escape all values for HTML.

    Raises jinja2.UndefinedError where the template uses a name that `values` lacks.
    """
    environment = Environment(autoescape=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= FILTERS
    return environment.from_string(files("clipline.report").joinpath(name).read_text("utf-8")).render(values)


def thousands(number: float) -> str:
    """1234.0 -> 1,234."""
    return f"{number:,.0f}"


def figure(value: float | None, form: str = ".1f", unit: str = "") -> str:
    """A number in a table, or a dash where it was not measured or not published."""
    return "-" if value is None else f"{value:{form}}{unit}"


def duration(seconds: float) -> str:
    """Seconds as text, such as `1 h 02 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


FILTERS: dict[str, Callable[..., str]] = {"thousands": thousands, "figure": figure, "duration": duration}
