"""Users without a name or a home."""

import getpass
import os
from pathlib import Path

import pytest

from clipline.utils.user import ensure_name_and_home

pwd = pytest.importorskip("pwd")
NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture
def unknown(monkeypatch):
    """No entry in passwd, and nothing in the environment. The fixture gives the function that sets HOME."""

    def getpwuid(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for name in (*NAMES, "HOME"):
        monkeypatch.setenv(name, "kept")  # so that what the test sets is undone
        monkeypatch.delenv(name)
    return monkeypatch.setenv


@pytest.mark.parametrize(("before", "after"), [(None, "/place"), ("/", "/place"), ("/mine", "/mine")])
def test_who_has_no_name_and_no_home_gets_both(before, after, unknown):
    if before:
        unknown("HOME", before)
    ensure_name_and_home("/place")
    assert getpass.getuser() == str(os.getuid())
    assert Path.home() == Path(after)


def test_without_a_place_the_home_is_the_root_folder(unknown):
    ensure_name_and_home()
    assert Path.home() == Path("/")


def test_a_name_and_a_home_are_kept(monkeypatch):
    for name, value in {"LOGNAME": "me", "HOME": "/mine"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("USER", raising=False)
    ensure_name_and_home("/place")
    assert (getpass.getuser(), os.environ["HOME"], os.environ.get("USER")) == ("me", "/mine", None)
