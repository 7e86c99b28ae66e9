"""Which paths --include and --exclude choose."""

import pytest

from clipline.embed.sources.patterns import Patterns, is_hidden, is_image
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


def test_images_and_hidden_names():
    assert [
        name for name in ("a.JPG", "a.heic", "a\n.png", ".jpg", "jpg", "a.jpg.part", "a.jpg/") if is_image(name)
    ] == [*("a.JPG", "a.heic", "a\n.png")]
    assert [is_hidden(path) for path in (".a.jpg", "x/._a.jpg", ".x/a.jpg", "x.y/a.b.jpg", "a..jpg")] == [
        *(True, True, True, False, False)
    ]
