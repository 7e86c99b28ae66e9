"""Which files a range or a glob of shards names."""

import os
from pathlib import Path

import pytest

from clipline.embed.sources.shard_names import expand
from clipline.errors import UsageError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{000..003}.tar", ["000.tar", "001.tar", "002.tar", "003.tar"]),
        ("{8..11}.tar", ["8.tar", "9.tar", "10.tar", "11.tar"]),
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{2..0}.tar", ["2.tar", "1.tar", "0.tar"]),
        ("p-{a,b}-{0..1}.tar", ["p-a-0.tar", "p-a-1.tar", "p-b-0.tar", "p-b-1.tar"]),
        ("{train,val}.tar", ["train.tar", "val.tar"]),
        ("{a,b{1..2}}.tar", ["a.tar", "b1.tar", "b2.tar"]),
        ("{0..6..3}.tar", ["0.tar", "3.tar", "6.tar"]),
    ],
)
def test_braces_as_bash_expands_them(tmp_path, text, names):
    assert expand(f"{tmp_path}/{text}") == ([tmp_path / name for name in names], tmp_path)


def test_globs_name_files_alone(tmp_path):
    for name in ("a/0.tar", "a/1.tar", "b/0.tar", "b/x/0.tar", "a/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "folder.tar").mkdir()

    def expanded(text: str) -> tuple[list[str], Path]:
        files, root = expand(f"{tmp_path}/{text}")
        return sorted(str(file.relative_to(tmp_path)) for file in files), root

    assert expanded("a/*.tar") == (["a/0.tar", "a/1.tar"], tmp_path / "a")
    assert expanded("*/0.tar") == (["a/0.tar", "b/0.tar"], tmp_path)
    assert expanded("**/*.tar") == (["a/0.tar", "a/1.tar", "b/0.tar", "b/x/0.tar"], tmp_path)
    assert expanded("{a,b}/[0].tar") == (["a/0.tar", "b/0.tar"], tmp_path)
    with pytest.raises(UsageError, match=r"no such files\. Fix: "):
        expand(f"{tmp_path}/c/*.tar")


@pytest.mark.skipif(os.name != "posix", reason="links as Unix knows them")
def test_links_that_lead_above_are_not_followed(tmp_path, monkeypatch):
    """Two of them made a glob name the same shards 2^40 times."""
    for name in ("other.tar", "in/0.tar", "in/x/1.tar", "in/x/y/2.tar", "in/.hidden/3.tar", "far/4.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for link in ("in/up", "in/x/up", "in/x/again"):
        (tmp_path / link).symlink_to("..")
    (tmp_path / "in" / "far").symlink_to(tmp_path / "far")

    def expanded(text: str) -> list[str]:
        return sorted(os.path.relpath(file, tmp_path) for file in expand(text)[0])

    assert expanded(f"{tmp_path}/in/**/*.tar") == ["in/0.tar", "in/x/1.tar", "in/x/y/2.tar"]
    assert expanded(f"{tmp_path}/in/*/**/[1-9].tar") == ["in/far/4.tar", "in/x/1.tar", "in/x/y/2.tar"]
    assert expanded(f"{tmp_path}/in/**/x/**/2.tar") == ["in/x/y/2.tar"]
    assert expanded(f"{tmp_path}/in/*/*.tar") == ["in/far/4.tar", "in/x/1.tar"]
    # A link that is named is followed.
    assert expanded(f"{tmp_path}/in/{{x,up}}/*.tar") == ["in/up/other.tar", "in/x/1.tar"]
    monkeypatch.chdir(tmp_path / "in")
    assert expanded("**/*.tar") == ["in/0.tar", "in/x/1.tar", "in/x/y/2.tar"]


def test_a_brace_that_is_not_closed_is_a_brace(tmp_path):
    (tmp_path / "a{0.tar").touch()
    assert expand(f"{tmp_path}/a{{?.tar")[0] == [tmp_path / "a{0.tar"]
    with pytest.raises(UsageError, match="no such files"):
        expand(f"{tmp_path}/{{0..3.tar")


def test_a_file_of_that_very_name_goes_first(tmp_path):
    (tmp_path / "a[1].tar").touch()
    (tmp_path / "a1.tar").touch()
    assert expand(f"{tmp_path}/a[1].tar") == ([tmp_path / "a[1].tar"], tmp_path)


@pytest.mark.parametrize("text", ["{0..99999999999999999999}.tar", "{0..9999}{0..9999}.tar", "{a,b}" * 30])
def test_endless_ranges_are_refused(text):
    with pytest.raises(UsageError, match="files"):
        expand(text)
