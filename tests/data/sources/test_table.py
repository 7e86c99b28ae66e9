"""Folders of images with a caption table."""

import base64
import hashlib
import io
import unicodedata

import pytest
from PIL import Image

from clipline.errors import CliplineError, UsageError

IMAGES = ("a.jpg", "b.jpg", "sub/c.png", "sub/deep/d.jpg")


@pytest.fixture
def photos(data, tmp_path):
    return data.write_folder(tmp_path / "photos", {name: data.photo(n) for n, name in enumerate(IMAGES)})


@pytest.fixture
def read(fetch, photos, tmp_path):
    """read(table text, options, expect) -> Fetched."""

    def run(text, expect=None, **options):
        table = tmp_path / "table.txt"
        table.write_bytes(text if isinstance(text, bytes) else text.encode())
        return fetch("csv", photos, {"captions": str(table), **options}, expect)

    return run


ROWS = [
    ("a.jpg", "a cat, asleep"),
    ("a.jpg", "cat"),
    ("b.jpg", "b"),
    ("sub/c.png", "c"),
    ("sub/deep/d.jpg", "d"),
]


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("given", [True, False])
def test_a_delimiter_is_given_or_detected(delimiter, given, data, read, photos):
    text = data.csv_text(ROWS, delimiter.join(["image", "caption"]), delimiter=delimiter)
    found = read(text, delimiter=delimiter if given else None)
    assert found.rows[1:] == [(name.replace("/", "__"), caption) for name, caption in ROWS]
    assert found.images == {name.replace("/", "__"): (photos / name).read_bytes() for name in IMAGES}
    assert found.source["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_flickr30k_as_it_is_published(read):
    """Spaces around `|`, quotes as plain letters, and one row that lacks its caption."""
    text = (
        "image_name| comment_number| comment\n"
        'a.jpg| 0|  A man says " hi " .\n'
        "a.jpg| 1| A | B\n"
        "b.jpg| 4   A dog runs across the grass .\n"
        "b.jpg| 3| A dog\n"
    )
    found = read(text, image_column="image_name", caption_column="comment", expect={"images": 2})
    assert found.rows[1:] == [("a.jpg", 'A man says " hi " .'), ("a.jpg", "A | B"), ("b.jpg", "A dog")]
    assert found.source["skipped"]["rows_without_caption"] == 1
    assert found.source["lines_without_caption"] == [4]
    assert found.source["skipped"]["images_without_caption"] == 2


def test_unquoted_delimiters_of_some_captions_are_kept_and_counted(read):
    text = 'image,caption\na.jpg,a cat, asleep\nb.jpg,a dog\nb.jpg,wet, and happy,\na.jpg, a "so called" cat, here\n'
    found = read(text)
    assert [row[1] for row in found.rows[1:]] == ["a cat, asleep", "a dog", "wet, and happy", 'a "so called" cat, here']
    assert found.source["captions_with_unquoted_delimiters"] == {"count": 3, "first_lines": [2, 4, 5]}


@pytest.mark.parametrize(
    "rows",
    ["a.jpg,a cat,\nb.jpg,a dog,\n", "a.jpg,a cat,7\nb.jpg,a dog,8\n", "a.jpg,0,a cat, asleep\nb.jpg,1,a dog\n"],
)
def test_a_field_too_many_in_every_row_is_no_part_of_the_caption(rows, read):
    with pytest.raises(
        CliplineError, match=r"line 2 and all others have more .* Fix: name every column .*, remove `,`"
    ):
        read(f"image,caption\n{rows}")


@pytest.mark.parametrize("caption", ['"Help," she says', '"Help", she says', '"Help" she says'])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_caption_that_begins_with_a_quotation_mark(caption, delimiter, data, read):
    """As it stands it would lose its marks; written as the error says it keeps them."""
    text = f"image{delimiter}caption\na.jpg{delimiter}a cat\nb.jpg{delimiter}{caption}\n"
    with pytest.raises(CliplineError, match=r"line 3: .* Fix: a text that begins with a quotation mark") as caught:
        read(text)
    assert len(str(caught.value).splitlines()) == 1
    doubled = caption.replace('"', '""')
    assert read(text.replace(caption, f'"{doubled}"')).rows[2] == ("b.jpg", caption)


def test_several_caption_columns_give_several_captions(read):
    """The five columns of other Flickr8k tables; a row that ends early has those before its end."""
    text = "image,caption_0,n,caption_1\na.jpg,a cat,1,asleep\nb.jpg,a dog,2\nsub/c.png\n"
    found = read(text, caption_column=["caption_0", "caption_1"])
    assert found.rows[1:] == [("a.jpg", "a cat"), ("a.jpg", "asleep"), ("b.jpg", "a dog")]
    assert found.source["lines_without_caption"] == [4]


def test_delimiters_of_several_caption_columns_are_no_guess(read):
    with pytest.raises(CliplineError, match=r"line 3: 4 fields, but .* Fix: put texts that hold `,` in quot"):
        read("image,x,y\na.jpg,one,two\nb.jpg,a, b,two\n", caption_column=["x", "y"])


@pytest.mark.parametrize("cell", ["""["a cat, asleep", "cat"]""", """['a cat, asleep', 'cat']"""])
def test_a_list_in_a_cell_is_several_captions(cell, data, read):
    found = read(data.csv_text([("a.jpg", cell), ("b.jpg", "[]")]))
    assert found.rows[1:] == [("a.jpg", "a cat, asleep"), ("a.jpg", "cat")]


def test_cells_may_hold_the_images_themselves(data, read, photos, tmp_path):
    """Base64, data: URIs and Python's b'...' beside paths; a photo that two cells hold is one image."""
    large = io.BytesIO()
    Image.effect_noise((500, 500), 90).save(large, "PNG")
    text = base64.b64encode(large.getvalue()).decode()
    assert len(text) > 131_072  # what csv takes in one field unless it is told otherwise
    cells = [text, f"data:image/png;base64,{text}", str(data.photo(5)), str({"bytes": None, "path": "a.jpg"}), "b.jpg"]
    found = read(data.csv_text(zip(cells, "vwxyz", strict=True)))
    names = ["00000000.png", "00000000.png", "00000002.jpg", "a.jpg", "b.jpg"]
    assert found.rows[1:] == list(zip(names, "vwxyz", strict=True))
    assert found.images == {
        "00000000.png": large.getvalue(), "00000002.jpg": data.photo(5),
        "a.jpg": data.photo(0), "b.jpg": data.photo(1),
    }  # fmt: skip


@pytest.mark.parametrize("cell", ["a\0.jpg", "x" * 216_717, "/9j/" + "A" * 9999 + "!", "\x1b]0;owned\x07.jpg"])
def test_a_bad_path_is_a_missing_image_of_its_row(cell, data, read):
    text = data.csv_text([(cell, "x"), ("a.jpg", "y")])
    with pytest.raises(CliplineError, match="captions name 1 images that are not there: ") as caught:
        read(text)
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable() or set(str(caught.value)) - {"\n"} <= set(map(chr, range(32, 126))) | {"…"}
    assert read(text, expect={"images": 1}).rows[1:] == [("a.jpg", "y")]


@pytest.mark.parametrize("text", ["x" * 99_999, "a.jpg," * 9999, 'image,caption\n"a.jpg","x"y' + "z" * 99_999])
def test_no_message_quotes_much_of_a_table(text, read):
    with pytest.raises(CliplineError) as caught:
        read(text)
    assert len(str(caught.value)) < 600


def test_splits_and_other_columns(read):
    text = "id,part,caption,image\n1,train,one,a.jpg\n2,test,two,b.jpg\n"
    found = read(text, split_column="part")
    assert found.rows == [("image", "caption", "split"), ("a.jpg", "one", "train"), ("b.jpg", "two", "test")]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("photo,caption\na.jpg,x\n", {}, "no column `image`; its first line has: `photo`, `caption`"),
        ("image;text\na.jpg;x\n", {}, "no column `caption`; its first line has: `image`, `text`"),
        ("image,caption\na.jpg,x\n", {"delimiter": ";"}, "its first line has: `image,caption`"),
        ("image,caption\na.jpg,x\n", {"split_column": "fold"}, "no column `fold`"),
        ("", {}, "its first line has: nothing"),
        ("image,x\na.jpg,x\n", {"caption_column": ["x", "y"]}, "no column `y`"),
    ],
)
def test_missing_columns_name_those_found(text, options, message, read):
    with pytest.raises(UsageError, match=message):
        read(text, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("caption,image\nx,a.jpg\nx, y,b.jpg\n", "line 3: 3 fields"),
        ("image,caption\na.jpg,x\n,y\n", "line 3: no image is named"),
        (b"image,caption\na.jpg,\xff\n", "line 2: not UTF-8"),
        ('image,caption\na.jpg,"two\nlines"\nb.jpg,"open\n', "line 4: unreadable"),
        ("image,caption\na.jpg\n", "no image has a caption"),
        ("image,caption\nzz.jpg,x\na.jpg,y\n", r"not there: zz\.jpg"),
    ],
)
def test_unreadable_rows_name_the_line(text, message, read):
    with pytest.raises(CliplineError, match=message):
        read(text)


def test_names_are_matched_by_path_then_by_bare_name(data, read, photos):
    rows = [
        (str(photos / "a.jpg"), "absolute"),
        ("./b.jpg", "dot"),
        ("sub\\c.png", "windows"),
        ("d.jpg", "bare"),
    ]
    assert [row[0] for row in read(data.csv_text(rows)).rows[1:]] == [
        "a.jpg",
        "b.jpg",
        "sub__c.png",
        "sub__deep__d.jpg",
    ]


def test_a_bare_name_that_two_folders_have_is_an_error(data, read, photos):
    (photos / "sub" / "twin.jpg").write_bytes(data.photo(7))
    (photos / "sub" / "deep" / "twin.jpg").write_bytes(data.photo(8))
    with pytest.raises(CliplineError, match=r"twin\.jpg may be any of sub/twin\.jpg, sub/deep/twin\.jpg"):
        read("image,caption\ntwin.jpg,x\n")


def test_accents_written_in_two_ways_are_one_name(data, read, photos):
    (photos / unicodedata.normalize("NFD", "é.jpg")).write_bytes(data.photo(7))
    found = read("image,caption\n" + unicodedata.normalize("NFC", "é.jpg") + ",x\n")
    assert set(found.images) == {unicodedata.normalize("NFC", "é.jpg")} == {found.rows[1][0]}


@pytest.mark.parametrize("twin", ["sub__c.png", "SUB/C.PNG"])
def test_names_that_clash_once_flat_are_an_error(twin, data, read, photos):
    data.write_folder(photos, {twin: data.photo(9)})
    with pytest.raises(CliplineError, match="clash as raw file names"):
        read(f"image,caption\nsub/c.png,x\n{twin},y\n")


def test_any_suffix_is_an_image_if_a_caption_names_it(data, read, photos):
    data.write_folder(photos, {"scan": data.photo(5), "notes.txt": b"x", "list.md": b"x"})
    found = read("image,caption\nscan,x\n")
    assert found.images == {"scan": data.photo(5)}
    assert found.source["skipped"]["images_without_caption"] == len(IMAGES)


@pytest.mark.parametrize("missing", ["folder", "table"])
def test_missing_inputs_are_usage_errors(missing, fetch, photos, tmp_path):
    table = tmp_path / "t.csv"
    if missing == "folder":
        table.write_text("image,caption\n")
        photos = tmp_path / "none"
    with pytest.raises(UsageError, match="no such"):
        fetch("csv", photos, {"captions": str(table)})


def test_links_are_followed_but_not_above_the_folder(data, read, photos, tmp_path):
    outside = {"secret.jpg": data.photo(7), "elsewhere/secret.jpg": data.photo(8), "elsewhere/a/e.jpg": data.photo(5)}
    data.write_folder(tmp_path, outside)
    for link, target in {
        "up": "..", "sub/up": "../..", "sub/deep/round": "..", "self": ".", "more": "../elsewhere/a",
        "../elsewhere/a/up": "..", "sub/above": tmp_path.parent,
    }.items():  # fmt: skip
        (photos / link).symlink_to(target)
    found = read(data.csv_text([*ROWS, ("more/e.jpg", "e")]))
    assert set(found.images) == {name.replace("/", "__") for name in (*IMAGES, "more/e.jpg")}
    assert found.source["skipped"]["images_without_caption"] == 0


def test_the_users_own_files_are_left_alone(data, read, photos):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in photos.rglob("*.*")}
    found = read(data.csv_text(ROWS))
    (found.folder / "images" / "a.jpg").write_bytes(b"changed")
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in photos.rglob("*.*")} == before
    assert (photos / "a.jpg").read_bytes() == data.photo(0)
