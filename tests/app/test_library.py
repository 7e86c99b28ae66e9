"""The folder behind the page: opened again when it changes, and never left."""

import json
import threading

import numpy as np
import pytest

from clipline.app import library as module
from clipline.app.library import EDITIONS, GoneError, Library, best
from clipline.errors import UsageError
from tests import factories
from tests.app import album_files


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Changes are seen at the next call, not within a second."""
    monkeypatch.setattr(module, "SECONDS", 0.0)


@pytest.fixture
def library(album) -> Library:
    return Library(album / "index", None, None, "cpu")


def test_what_is_opened(library, album):
    edition = library.now()
    assert (library.title, len(edition.index)) == ("photos", 20)
    assert edition.file(3) == (album / "photos" / "003.png").resolve()
    assert library.now() is edition
    assert library.edition(edition.name) is edition


def test_the_nearest_come_first_and_pages_join(library):
    edition = library.now()
    vector = library.text_vector(edition, "a red picture")
    assert np.allclose(vector, factories.unit((1, 0, 0)), atol=1e-5)
    pages = [best(edition, vector, first, 6) for first in (0, 6, 12, 18)]
    assert [len(page) for page in pages] == [6, 6, 6, 2]
    assert [hit.row for page in pages for hit in page] == [hit.row for hit in edition.index.search(vector[None], 20)[0]]
    without = best(edition, edition.vector(4), 0, 20, without=edition.index.path(4))
    assert len(without) == 19
    assert 4 not in [hit.row for hit in without]


def test_new_embeddings_are_followed(library, album):
    before = library.now()
    album_files.write(album / "index2", album_files.shades(30))
    (album / "index").rename(album / "old")
    (album / "index2").rename(album / "index")
    after = library.now()
    assert (len(before.index), len(after.index)) == (20, 30)
    assert library.edition(after.name) is library.latest is after
    assert library.edition(before.name) is before  # pages that are open still find their images
    for number in range(EDITIONS - 1):
        album_files.write(album / f"next{number}", album_files.shades(30 + number))
        (album / "index").rename(album / f"old{number}")
        (album / f"next{number}").rename(album / "index")
        library.now()
    with pytest.raises(GoneError, match="the folder has changed"):
        library.edition(before.name)
    assert library.edition(after.name) is after


def test_embeddings_that_vanish_and_come_back(library, album, capfd):
    (album / "index").rename(album / "away")
    for _ in range(2):
        with pytest.raises(GoneError, match="cannot be used now") as caught:
            library.now()
        assert str(album) not in str(caught.value), "the page names no places of the server"
    assert "no such folder" in capfd.readouterr().err
    (album / "away").rename(album / "index")
    assert len(library.now().index) == 20


def test_another_model_needs_a_new_start_only_if_it_is_not_there(library, album, make_bundle):
    path = album / "index" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_id": "other", "model": "../new"}))
    with pytest.raises(GoneError):
        library.now()
    make_bundle(album / "new", model_id="other")
    assert library.now().model.model_id == "other"


def test_rows_that_are_none(library):
    for row in (-1, 20, 10**11):
        with pytest.raises(GoneError, match="no such image"):
            library.now().file(row)
        with pytest.raises(GoneError, match="no such image"):
            library.now().vector(row)


def test_images_moved_elsewhere(album):
    (album / "photos").rename(album / "moved")
    library = Library(album / "index", None, album / "moved", "cpu")
    assert library.now().file(0) == (album / "moved" / "000.png").resolve()
    with pytest.raises(UsageError, match="no such folder"):
        Library(album / "index", None, album / "wrong", "cpu")


def test_images_on_another_machine(album):
    path = album / "index" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"root": "s3://bucket/photos"}))
    with pytest.raises(UsageError, match=r"s3://bucket/photos.*--root"):
        Library(album / "index", None, None, "cpu")
    assert Library(album / "index", None, album / "photos", "cpu").now().file(0).name == "000.png"


def test_many_threads_open_one_edition(library, album):
    album_files.write(album / "index2", album_files.shades(25))
    (album / "index2" / "data" / "part-00000.parquet").replace(album / "index" / "data" / "part-00000.parquet")
    (album / "index2" / "manifest.json").replace(album / "index" / "manifest.json")
    seen, threads = [], [threading.Thread(target=lambda: seen.append(library.now())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {id(edition) for edition in seen} == {id(library.now())}
    assert len(seen[0].index) == 25


def test_what_cannot_be_used_is_looked_at_once_a_second(library, album, capfd, monkeypatch):
    (album / "index").rename(album / "away")
    with pytest.raises(GoneError, match="cannot be used now"):
        library.now()
    with pytest.raises(GoneError, match="cannot be used now"):
        library.now()
    assert capfd.readouterr().err.count("no such folder") == 1, "the same trouble is one line"
    monkeypatch.setattr(module, "SECONDS", 3600.0)
    (album / "away").rename(album / "index")
    with pytest.raises(GoneError, match="cannot be used now"):
        library.now()
    monkeypatch.setattr(module, "SECONDS", 0.0)
    assert len(library.now().index) == 20
