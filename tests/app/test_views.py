"""What a person sees for what they ask, without a browser."""

import io

import pytest
from PIL import Image

from clipline.app import html, views
from clipline.app.library import GoneError, Library
from clipline.app.uploads import Uploads
from clipline.app.views import Ranking, Views
from clipline.errors import UsageError
from tests.app import album_files


@pytest.fixture
def library(album) -> Library:
    return Library(album / "index", None, None, "cpu")


@pytest.fixture
def uploads() -> Uploads:
    return Uploads()


@pytest.fixture
def shown(library, uploads) -> Views:
    return Views(library, uploads)


def upload(uploads: Uploads, library: Library, colour: tuple[int, int, int]) -> str:
    data = io.BytesIO()
    Image.new("RGB", (30, 30), colour).save(data, "PNG")
    return f"upload:{uploads.add(data.getvalue(), library.now().model)}"


def rows(view: views.View) -> list[int]:
    return [tile.row for tile in view.tiles]


def test_words_page_by_page(shown):
    first = shown.words("  a   Red picture ")
    assert (first.title, first.about, first.page, first.pages) == ("“a Red picture”", "words:a Red picture", 0, 3)
    assert rows(first) == list(range(9))
    assert [tile.rank for tile in first.tiles] == list(range(1, 10))
    scores = [tile.score for tile in first.tiles]
    assert scores == sorted(scores, reverse=True)
    pages = [shown.turn(first.about, page) for page in range(3)]
    assert pages[0] == first
    assert sorted(row for page in pages for row in rows(page)) == list(range(20))
    assert len(pages[2].tiles) == 2
    assert shown.turn(first.about, 99) == pages[2]
    assert shown.turn(first.about, -5) == first


def test_an_empty_query_shows_the_folder(shown):
    view = shown.words(" \n ")
    assert (view.title, rows(view), view.notes) == (
        "All images",
        list(range(9)),
        ["Type what to look for, then press Enter."],
    )
    assert view.tiles[0].score is None
    assert rows(shown.turn(view.about, 2)) == [18, 19]


def test_queries_that_are_too_long(shown):
    (note,) = shown.words("red " * 20).notes
    assert note == f"`{('red ' * 20)[:59]}…` is longer than the model reads: its end is ignored"
    with pytest.raises(UsageError, match="the text is not valid text"):
        shown.words("half of a letter: \ud83d")
    with pytest.raises(UsageError, match="more than 1,000 characters"):
        shown.words("x" * 1001)


def test_pages_end_where_nobody_goes(shown, monkeypatch):
    monkeypatch.setattr(views, "MAX_RANK", 12)
    view = shown.words("red", 1)
    assert (view.pages, view.total, view.of, len(view.tiles)) == (2, 12, 20, 3)
    assert "10 to 12 of 12 best; the folder has 20" in html.gallery(view)


def test_neighbours_of_a_row_leave_it_out(shown, library):
    picture = f"row:{library.now().name}:5"
    view = shown.near(picture)
    assert view.title == "Like 005.png"
    assert set(rows(view)[:2]) == {4, 6}
    assert 5 not in rows(view) and view.total == 19
    assert 5 not in [row for page in range(3) for row in rows(shown.turn(view.about, page))]


def test_neighbours_of_an_upload(shown, library, uploads):
    view = shown.near(upload(uploads, library, (0, 0, 250)))
    assert (view.title, view.tiles[0].row, view.total) == ("Like your image", 19, 20)


def test_pictures_that_cannot_be_used(shown, uploads, library):
    for picture in ("", "row:1", "file:/etc/passwd", "row:zz:1"):
        with pytest.raises(UsageError, match="Choose an image first"):
            shown.near(picture)
    for picture in ("upload:nobody", "row:abc:1", f"row:{library.now().name}:20"):
        with pytest.raises(GoneError):
            shown.near(picture)


def test_neighbours_of_a_row_in_a_folder_that_has_changed(shown, library, album, monkeypatch):
    picture = f"row:{library.now().name}:5"
    monkeypatch.setattr("clipline.app.library.SECONDS", 0.0)
    shades = dict(reversed(album_files.shades(20).items()))  # the same images, in other rows
    album_files.write(album / "turned", shades)
    (album / "index").rename(album / "old")
    (album / "turned").rename(album / "index")
    view = shown.near(picture)
    assert view.title == "Like 005.png" and view.edition == library.latest.name
    assert {tile.path for tile in view.tiles[:2]} == {"004.png", "006.png"}
    assert "005.png" not in [tile.path for page in range(3) for tile in shown.turn(view.about, page).tiles]


@pytest.mark.parametrize("kind", ["upload", "row"])
def test_a_picture_of_another_model_is_asked_for_again(shown, library, uploads, make_bundle, album, monkeypatch, kind):
    picture = upload(uploads, library, (0, 0, 250)) if kind == "upload" else f"row:{library.now().name}:5"
    monkeypatch.setattr("clipline.app.library.SECONDS", 0.0)
    manifest = album / "index" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"colours"', '"other"').replace("../onnx", "../new"))
    make_bundle(album / "new", model_id="other")
    with pytest.raises(GoneError, match="model has changed"):
        shown.near(picture)


def test_labels(shown, library):
    ranking = shown.labels(f"row:{library.now().name}:0", "blue, red,\n green , red,,")
    assert ranking.texts[0][0] == "red"
    assert len(ranking.texts) == 3
    assert sum(share for _, share in ranking.texts) == pytest.approx(1)
    assert "logit scale" in ranking.notes[-1]
    with pytest.raises(UsageError, match="Type some labels"):
        shown.labels(f"row:{library.now().name}:0", " , ")
    with pytest.raises(UsageError, match="at most 100"):
        shown.labels(f"row:{library.now().name}:0", ",".join(map(str, range(101))))
    with pytest.raises(UsageError, match="Choose an image first"):
        shown.labels("", "red")


def test_captions(shown, library, uploads):
    ranking = shown.captions(upload(uploads, library, (0, 250, 0)), "a red, red picture\n\nGreen\nblue " + "blue " * 20)
    assert ranking.texts[0] == ("Green", pytest.approx(1, abs=1e-3))
    assert ranking.texts[0][1] > ranking.texts[1][1]
    assert ranking.notes[0].startswith("`blue blue")


def test_files_that_are_gone_are_said_to_be(shown, album):
    (album / "photos" / "001.png").unlink()
    view = shown.words("red")
    assert [tile.gone for tile in view.tiles][:3] == ["", "not on disk any more", ""]
    drawn = html.gallery(view)
    assert drawn.count("Not on disk any more") == 1
    assert drawn.count('<img src="pictures/thumb/') == 8


def test_a_folder_without_images(album):
    album_files.write(album / "none", {})
    view = Views(Library(album / "none", None, None, "cpu"), Uploads())
    for page in (view.folder(), view.words("red")):
        assert page.tiles == [] and page.pages == 1
        assert "No images" in html.gallery(page)


def test_names_and_texts_are_escaped(album, shown):
    album_files.write(album / "odd", {album_files.SCRIPT: (250, 0, 0), "a&b/<b>.png": (0, 250, 0)})
    odd = Views(Library(album / "odd", None, None, "cpu"), Uploads()).words("<i>red</i>")
    drawn = html.gallery(odd) + html.ranking(Ranking([("<u>x</u>", 1.0)], ["<s>"])) + html.trouble("<em>")
    for tag in ("<img src=x", "<b>", "<i>red", "<u>", "<s>", "<em>"):
        assert tag not in drawn
    assert "a&amp;b/&lt;b&gt;.png" in drawn


def test_probabilities_are_readable():
    drawn = html.ranking(Ranking([("dog", 0.98765), ("cat", 0.0004)], []))
    assert "98.8 %" in drawn and "&lt; 0.1 %" not in drawn and "< 0.1 %" in drawn


def test_members_of_tar_shards_are_said_to_be(album):
    (album / "photos" / "shard.tar").write_bytes(b"members")
    album_files.write(album / "shards", {"shard.tar/a.png": (250, 0, 0)})
    view = Views(Library(album / "shards", None, None, "cpu"), Uploads()).folder()
    assert "Inside of a file, such as a tar shard" in html.gallery(view)
