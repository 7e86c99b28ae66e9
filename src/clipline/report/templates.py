"""The two templates of this package, filled in by jinja2."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined


def fill(name: str, *, escape: bool, **values: Any) -> str:
    """The template `name` of this folder with `values`; escape: of all values, for HTML.

    A name that it does not know is an error (jinja2.UndefinedError), never a blank.
    """
    environment = Environment(autoescape=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= FILTERS
    return environment.from_string(files("clipline.report").joinpath(name).read_text("utf-8")).render(values)


def thousands(number: float) -> str:
    """1234.0 -> 1,234."""
    return f"{number:,.0f}"


def figure(value: float | None, form: str = ".1f", unit: str = "") -> str:
    """A number in a table; a dash for what was not measured or not published."""
    return "-" if value is None else f"{value:{form}}{unit}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


FILTERS: dict[str, Callable[..., str]] = {"thousands": thousands, "figure": figure, "duration": duration}
