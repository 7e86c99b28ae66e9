"""Archives and folders in both layouts: what is read, and what is reported when they are not what they should be."""

from pathlib import Path

import pytest

from clipline.errors import CliplineError, UsageError


@pytest.mark.parametrize("layout", ["kaggle_layout", "original_layout"])
@pytest.mark.parametrize("name", ["f8.zip", "f8.tar", "f8.tgz", "f8.tar.bz2", "f8.tar.xz", "f8"])
@pytest.mark.parametrize("parent", ["", "deep/flickr8k/"])
def test_every_layout_in_every_packing_gives_the_same_raw_folder(layout, name, parent, data, fetch, tmp_path):
    files = {f"{parent}{path}": content for path, content in getattr(data, layout)().items()}
    junk = {
        "__MACOSX/._captions.txt": b"junk",
        f"{parent}.DS_Store": b"junk",
        f"{parent}Images/.x.jpg": b"junk",
    }
    archive = data.pack(tmp_path / name, files | junk)
    found = fetch("archive", archive)
    assert found.rows == [("image", "caption"), *data.ROWS]
    assert found.images == {image: data.photo(index) for index, image in enumerate(data.CAPTIONS)}
    assert (found.source["images"], found.source["captions"]) == (3, 6)
    assert found.source["skipped"]["captions_without_image"] == (layout == "original_layout")
    assert (found.source["sha256"] is None) == archive.is_dir()


def test_source_json_is_what_fetch_returns(data, fetch, tmp_path):
    import hashlib
    import json

    archive = data.write_zip(tmp_path / "a.zip", data.kaggle_layout())
    found = fetch("archive", archive)
    assert json.loads((found.folder / "source.json").read_text()) == found.source
    assert found.source["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert (found.source["kind"], found.source["path"]) == ("archive", str(archive))


def test_relative_paths_start_at_the_repository_root(data, fetch, tmp_path, monkeypatch):
    data.write_zip(tmp_path / "a.zip", data.kaggle_layout())
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert fetch("archive", "a.zip").source["path"] == "a.zip"


def test_unquoted_commas_belong_to_the_caption(data, fetch, tmp_path):
    text = b"image,caption\r\n1_a.jpg,A dog, wet, and 1,000 fleas\r\n1_a.jpg,A dog\r\n"
    found = fetch("archive", data.write_zip(tmp_path / "a.zip", data.kaggle_layout() | {"captions.txt": text}))
    assert found.rows[1:] == [("1_a.jpg", "A dog, wet, and 1,000 fleas"), ("1_a.jpg", "A dog")]
    assert found.source["captions_with_unquoted_delimiters"] == {"count": 1, "first_lines": [2]}
    assert found.source["skipped"]["images_without_caption"] == 2
    assert set(found.images) == {"1_a.jpg"}


UNREADABLE = [
    ("captions.txt", b"image,caption\n1_a.jpg,fine\n2_b.jpg,caf\xe9\n", "line 3: not UTF-8"),
    ("captions.txt", b"image,caption\n1_a.jpg,fine\n2_b.jpg\n", "line 3: expected `image,caption`"),
    ("captions.txt", b'image,caption\n1_a.jpg,fine\n2_b.jpg,"no end\n3_c.jpg,x\n', "line 3: unreadable"),
    ("captions.txt", b"image,caption\n1_a.jpg,fine,\n2_b.jpg,fine,\n", "line 2 and all others have more fields"),
    ("captions.txt", b"name;text\n1_a.jpg;fine\n", "line 1: expected the header `image,caption`"),
    ("captions.txt", b"", "line 1: expected the header"),
    ("Flickr8k.token.txt", b"1_a.jpg#0\tfine\n2_b.jpg a dog\n", "line 2: expected `name.jpg#0<tab>caption`"),
]


@pytest.mark.parametrize(("name", "content", "message"), UNREADABLE)
def test_unreadable_captions_name_the_line(name, content, message, data, fetch, tmp_path):
    files = {f"Images/{image}": data.photo(0) for image in data.CAPTIONS}
    archive = data.write_zip(tmp_path / "a.zip", files | {name: content})
    with pytest.raises(CliplineError, match=message) as caught:
        fetch("archive", archive)
    assert name in str(caught.value)


def test_captions_for_missing_images_name_them(data, fetch, tmp_path):
    files = data.kaggle_layout()
    del files["Images/2_b.jpg"]
    archive = data.write_zip(tmp_path / "a.zip", files)
    with pytest.raises(CliplineError, match=r"1 images that are not there: 2_b\.jpg"):
        fetch("archive", archive)
    found = fetch("archive", archive, expect={"images": 2, "captions": 4})
    assert found.source["skipped"]["captions_without_image"] == 2
    assert {row[0] for row in found.rows[1:]} == {"1_a.jpg", "3_c.jpg"}


@pytest.mark.parametrize(
    ("expect", "words"),
    [
        ({"images": 4}, ["expected 4 images", "found 3 images with 6 captions"]),
        ({"captions": 7}, ["expected 7 captions", "found 3 images with 6 captions"]),
    ],
)
def test_wrong_counts_say_what_was_expected_and_found(expect, words, data, fetch, tmp_path):
    with pytest.raises(CliplineError) as caught:
        fetch("archive", data.write_zip(tmp_path / "a.zip", data.kaggle_layout()), expect=expect)
    assert all(word in str(caught.value) for word in words)


def test_wrong_counts_name_the_missing_files(data, fetch, tmp_path):
    files = data.kaggle_layout()
    del files["Images/1_a.jpg"]
    files["Images/9_extra.jpg"] = data.photo(9)
    with pytest.raises(CliplineError, match=r"(?s)not there: 1_a\.jpg.*no caption: 9_extra\.jpg"):
        fetch("archive", data.write_zip(tmp_path / "a.zip", files), expect={"images": 3})
    assert not (tmp_path / "out" / "raw").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "it holds: nothing"),
        ({"readme.md": b"hello"}, r"expected one caption table.*it holds: readme\.md"),
        ({"captions.txt": b"image,caption\na.jpg,x\n"}, "no image in a folder named Images"),
        ({"captions.txt": b"image,caption\n", "Flickr8k.token.txt": b""}, "found several"),
    ],
)
def test_an_unknown_layout_says_what_the_folder_holds(files, message, data, fetch, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(CliplineError, match=message):
        fetch("archive", data.write_folder(tmp_path / "in", files))


def test_a_missing_path_is_a_usage_error(fetch, tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        fetch("archive", tmp_path / "nothing.zip")


def test_a_linked_image_folder_is_followed_once(data, fetch, tmp_path):
    files = data.kaggle_layout()
    real = data.write_folder(tmp_path / "disk", {path: c for path, c in files.items() if path.startswith("Images")})
    folder = data.write_folder(tmp_path / "in", {"captions.txt": files["captions.txt"]})
    (folder / "Images").symlink_to(real / "Images")
    (real / "Images" / "loop").symlink_to(folder)
    assert len(fetch("archive", folder).images) == 3


def test_folders_that_machines_fill_are_passed_over(data, fetch, tmp_path):
    """The recycle bin of a NAS holds second images of one name."""
    files = data.kaggle_layout()
    image = next(path for path in files if path.startswith("Images"))
    for folder in ("#recycle/", "deep/@eaDir/", "@Recycle/x/"):
        files[folder + image] = files[image]
    assert len(fetch("archive", data.write_folder(tmp_path / "in", files)).images) == 3


def test_all_of_flickr8k(fetch):
    archive = Path(__file__).parents[4] / "shared/flickr8k/flickr8k.zip"
    if not archive.is_file():
        pytest.skip("needs the Flickr8k archive in ../shared, which is not part of the repository")
    found = fetch("archive", archive, expect={"images": 8091, "captions": 40455})
    assert (len(found.images), len(found.rows) - 1) == (8091, 40455)
    assert found.source["skipped"] == {"captions_without_image": 0, "images_without_caption": 0}
    assert found.rows[-1] == (
        "997722733_0cb5439472.jpg",
        "A rock climber practices on a rock climbing wall .",
    )
