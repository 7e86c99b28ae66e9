"""Which paths --include and --exclude choose."""

import pytest

from clipline.embed.sources.patterns import ImageFilter, Patterns
from clipline.errors import UsageError

PATHS = ["a.jpg", "b.png", "2024/a.jpg", "2024/05/a.jpg", "2024/05/b.png", "2025/drafts/a.jpg", "drafts/05/c.jpg"]


def chosen(include=(), exclude=()) -> list[str]:
    patterns = Patterns(include, exclude)
    return [path for path in PATHS if patterns.takes(path)]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*.png", ["b.png", "2024/05/b.png"]),
        ("/*.png", ["b.png"]),
        ("*", PATHS),
        ("**", PATHS),
        ("**/*.png", ["b.png", "2024/05/b.png"]),
        ("2024", ["2024/a.jpg", "2024/05/a.jpg", "2024/05/b.png"]),
        ("2024/", ["2024/a.jpg", "2024/05/a.jpg", "2024/05/b.png"]),
        ("2024/**", ["2024/a.jpg", "2024/05/a.jpg", "2024/05/b.png"]),
        ("2024/*.jpg", ["2024/a.jpg"]),
        ("2024/**/*.jpg", ["2024/a.jpg", "2024/05/a.jpg"]),
        ("**/05/**/?.jpg", ["2024/05/a.jpg", "drafts/05/c.jpg"]),
        ("drafts", ["2025/drafts/a.jpg", "drafts/05/c.jpg"]),
        ("/drafts", ["drafts/05/c.jpg"]),
        ("202[!4]/*/*.jpg", ["2025/drafts/a.jpg"]),
        ("*/05", ["2024/05/a.jpg", "2024/05/b.png", "drafts/05/c.jpg"]),
        ("2024/*", ["2024/a.jpg", "2024/05/a.jpg", "2024/05/b.png"]),
        ("A.jpg", []),
        ("a", []),
        ("2024/*.png", []),
    ],
)
def test_a_pattern_in_and_out(pattern, left):
    assert chosen(include=[pattern]) == left
    assert chosen(exclude=[pattern]) == [path for path in PATHS if path not in left]


def test_several():
    assert chosen(["*.png", "2025"]) == ["b.png", "2024/05/b.png", "2025/drafts/a.jpg"]
    assert chosen(["*.jpg"], ["drafts", "/a.jpg"]) == ["2024/a.jpg", "2024/05/a.jpg"]


def test_names_are_taken_as_they_are():
    assert Patterns(["*.jpg"]).takes("line\nbreak/a\n.jpg")
    assert not Patterns(["*.jpg"]).takes("a.jpg\n")
    assert Patterns(["a/**/c.jpg"]).takes("a/\n/b/c.jpg")
    assert Patterns(["caf%E9/*"]).takes("caf%E9/a.jpg")
    assert Patterns(["a+(b).jpg"]).takes("a+(b).jpg")
    assert Patterns(["#1.jpg", "!x"]).takes("a/#1.jpg")
    assert Patterns(["!x"]).takes("!x/a.jpg") and not Patterns(["!x"]).takes("y/a.jpg")
    assert Patterns(["b\nc"]).takes("b\nc/a.jpg")
    assert Patterns([r"a\*.jpg"]).takes("a*.jpg") and not Patterns([r"a\*.jpg"]).takes("ab.jpg")


def test_only_what_is_excluded_as_a_whole_is_not_entered():
    patterns = Patterns(["2024/**/*.jpg"], ["drafts/", "*.jpg", "a/b"])
    assert [patterns.enters(folder) for folder in ("2024/", "drafts/", "x/drafts/", "a/", "a/b/", "a/b/c/")] == [
        *(True, False, False, True, False, False)
    ]


def test_many_stars_end_soon():
    assert not Patterns(["**/" * 30 + "a/**/b/**/c/**/*.png"]).takes("a/b/c/" * 12 + "x.jpg")


@pytest.mark.parametrize("pattern", ["", "/", "./a.jpg", "a/../b.jpg", "a//b.jpg", "//", "//a", "[z-a].jpg", "a\\"])
def test_what_could_match_nothing_is_refused(pattern):
    with pytest.raises(UsageError, match=r"^--exclude .*Fix: "):
        Patterns(exclude=[pattern])


NAMED = ["a.jpg", "b.dat", "c", "2024/d.png", "2024/e.dat", "2024/f", "2024/05/g.XMP", "dat/h.txt"]


@pytest.mark.parametrize(
    ("include", "left"),
    [
        ([], ["a.jpg", "2024/d.png"]),
        (["*.dat"], ["b.dat", "2024/e.dat"]),
        (["*"], NAMED),
        (["2024"], ["2024/d.png"]),
        (["2024/"], ["2024/d.png"]),
        (["2024/**"], ["2024/d.png"]),
        (["2024/*"], ["2024/d.png", "2024/e.dat", "2024/f", "2024/05/g.XMP"]),
        (["2024/**/*.XMP", "2024"], ["2024/d.png", "2024/05/g.XMP"]),
        (["2024", "x/*"], ["2024/d.png"]),
        (["c", "dat"], ["c"]),
    ],
)
def test_a_pattern_that_names_files_decides_whatever_their_suffix(include, left):
    images = ImageFilter(include)
    assert [path for path in NAMED if images.takes(path)] == left
    assert images.passed_over.suffixes.total() == sum(Patterns(include).takes(path) for path in NAMED) - len(left)


def test_exclude_wins_and_is_not_counted():
    images = ImageFilter(["*.dat"], ["2024"])
    assert [path for path in NAMED if images.takes(path)] == ["b.dat"]
    assert not images.passed_over


def test_machine_folders_are_counted_once():
    paths = ["a/@eaDir/x.jpg", "a/@eaDir/y.jpg", "b/@eaDir/z.jpg", "b/c.jpg"]
    images = ImageFilter()
    assert [path for path in paths if images.enters(path)] == ["b/c.jpg"]
    assert images.passed_over.folders == {"a/@eaDir", "b/@eaDir"}
    assert all(map(ImageFilter(keep_machine_folders=True).enters, paths))
