"""Properties that hold for any text, table, path, settings file, archive and manifest, tested with hypothesis."""

import copy
import csv
import io
import json
import os
import re
import shutil
import struct
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from clipline.config.base import read_yaml, validate
from clipline.config.dataset import CaptionRules, Dataset, TableSource
from clipline.config.recipe import Recipe
from clipline.config.run import Params, load_run
from clipline.data.archives.members import DamagedError, safe_name
from clipline.data.archives.readers import Zip
from clipline.data.captions import Caption, Dropped, clean, filter_captions, read_captions
from clipline.data.records import decode, records
from clipline.data.sources.raw import CaptionRow, flat_name, flat_names, write_captions
from clipline.data.sources.table import read_table
from clipline.embed.sources.table import Table
from clipline.embeddings import manifest as embeddings
from clipline.embeddings.paths import to_name, to_text
from clipline.errors import CliplineError, UsageError, shorten
from clipline.runtime.bundle import Bundle
from clipline.runtime.bundle import Manifest as BundleManifest
from clipline.utils.cells import image_or_path, texts

ROOT = Path(__file__).parents[2]
# All examples of a test share a folder, and each writes its file again. CLIPLINE_EXAMPLES: examples per test.
settings.register_profile(
    "hostile",
    max_examples=int(os.environ.get("CLIPLINE_EXAMPLES", "50")),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("hostile")

# Any character that a file in UTF-8 can hold: all but halves of surrogate pairs.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
AWKWARD = st.text(st.sampled_from(list("a,;|\t\"'\r\n\0 \u0301\u200b\u200d\ufeff\u2028\u0085\x1b#&é😀İ")), max_size=12)
ANY = st.one_of(AWKWARD, TEXT)


# ---------------------------------------------------------------- captions


@given(st.one_of(ANY, st.text(max_size=30)), st.booleans())
@example("e\u200b\u0301", False)
@example("\ud800x", False)
@example("a" * 200_000 + "\0", True)
def test_a_clean_caption_is_one_line_of_composed_visible_text(text, lowercase):
    cleaned = clean(text, lowercase)
    assert cleaned == " ".join(cleaned.split())
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not {unicodedata.category(letter) for letter in cleaned} & {"Cc", "Cs", "Zl", "Zp"}
    if "&" not in cleaned:  # `&amp;lt;` is text about an entity, and stands for `&lt;`
        assert clean(cleaned, lowercase) == cleaned


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20))
def test_words_of_letters_and_digits_lose_nothing(word):
    assert clean(f"  {word}\t{word}\n") == unicodedata.normalize("NFC", f"{word} {word}")


@given(st.lists(ANY, max_size=20), st.integers(1, 4), st.integers(4, 9))
def test_every_caption_is_kept_or_counted(texts, least, most):
    dropped = Dropped()
    rows = [Caption("a.jpg", text, None, line) for line, text in enumerate(texts, 2)]
    kept = filter_captions(rows, CaptionRules(min_words=least, max_words=most), dropped)
    assert len(kept) + sum(dropped.counts.values()) == len(texts)
    assert all(caption.text for caption in kept)
    json.dumps(dropped.report()).encode()


NAME = ANY.filter(bool)


@given(st.lists(st.tuples(NAME, ANY, st.sampled_from([None, "train", "te\rst", "val\n"])), min_size=1, max_size=8))
@example([("a.jpg", "one\rtwo", None)])
@example([("a\r.jpg", "", None)])
@example([("a.jpg", "\ufeff", None), ('"', '""', None)])
def test_captions_are_read_as_they_were_written(tmp_path, rows):
    rows = [CaptionRow(*row) for row in rows]
    write_captions(tmp_path / "captions.csv", rows)
    captions_read = read_captions(tmp_path / "captions.csv")
    assert [(row.image, row.text) for row in captions_read] == [(row.image, row.caption) for row in rows]
    if any(row.split is not None for row in rows):
        assert [row.split for row in captions_read] == [row.split or "" for row in rows]


# ---------------------------------------------------------------- tables


@given(st.text(st.sampled_from(list('ab,;|\t"\r\n \0é')), max_size=60), st.sampled_from([",", ";", "\t"]))
def test_records_are_csvs_own_without_blank_rows(text, delimiter):
    """Equal to the csv module where that reads the text, an error with the line where it does not."""
    try:
        expected = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error:
        with pytest.raises(CliplineError, match=r"x\.csv: line \d+: "):
            list(records(text, "x.csv", delimiter))
        return
    parsed = list(records(text, "x.csv", delimiter))
    assert [record.fields for record in parsed] == [row for row in expected if any(field.strip() for field in row)]
    ends = len(re.findall(r"\r\n|\r|\n", text)) + 1
    assert all(1 <= record.line <= ends for record in parsed)
    assert all(record.text in text for record in parsed)


@given(st.binary(max_size=40))
def test_bytes_are_text_or_an_error_with_the_line(data):
    try:
        expected = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        with pytest.raises(CliplineError, match=f"x: line {line}: not UTF-8"):
            decode(data, "x")
    else:
        assert decode(data, "x") == expected.removeprefix("\ufeff")


CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda text: text == text.strip()
)


@given(
    rows=st.lists(st.tuples(CELL, ANY.map(str.strip), CELL), min_size=1, max_size=6),
    delimiter=st.sampled_from([",", "\t", ";"]),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.booleans(),
    every=st.booleans(),
    order=st.permutations(["image", "caption", "extra"]),
)
def test_a_table_in_any_dialect_gives_its_rows(tmp_path, rows, delimiter, ending, mark, every, order):
    """Delimiters, line ends, a byte order mark, quotes around all or only where needed, columns in any order."""
    assume(not any(row[0].startswith("\ufeff") for row in rows))
    file = io.StringIO(newline="")
    quoting = (
        csv.QUOTE_ALL
        if every or any(end in cell for row in rows for cell in row for end in "\r\n")
        else csv.QUOTE_MINIMAL
    )
    writer = csv.writer(file, delimiter=delimiter, lineterminator=ending, quoting=quoting)
    writer.writerow(order)
    writer.writerows(
        [dict(zip(("image", "caption", "extra"), row, strict=True))[name] for name in order] for row in rows
    )
    (tmp_path / "t.csv").write_bytes(("\ufeff" * mark + file.getvalue()).encode())
    table = read_table(tmp_path / "t.csv", TableSource(captions="t.csv"))
    assert [(row.image, row.caption) for row in table.rows] == [(row[0], row[1]) for row in rows]
    assert table.short == table.joined == []


@given(
    st.binary(max_size=60), st.sampled_from([b"image,caption\n", b"image,caption,split\r\n", b"caption\timage\n", b""])
)
@example(b"a,b,c\n", b"image,caption,image\n")
def test_any_table_is_rows_or_an_error_that_names_it(tmp_path, data, header):
    path = tmp_path / "t.csv"
    path.write_bytes(header + data)
    for source in (TableSource(captions="t.csv"), TableSource(captions="t.csv", delimiter="|", split_column="split")):
        try:
            rows = read_table(path, source).rows
        except CliplineError as error:
            assert "t.csv" in str(error)
        else:
            assert all(row.image == row.image.strip() and row.image for row in rows)


@given(st.binary(max_size=60), st.sampled_from([b"path\n", b"path,x\n", b"a;b\r\n", b""]))
def test_any_table_of_paths_is_items_or_an_error_that_names_it(tmp_path, data, header):
    path = tmp_path / "p.csv"
    path.write_bytes(header + data)
    try:
        items = list(Table(path))
    except CliplineError as error:
        assert "p.csv" in str(error)
        return
    assert all(item.path.encode() for item in items)
    assert len({item.path for item in items if not hasattr(item, "reason")}) == sum(
        not hasattr(item, "reason") for item in items
    )


@given(
    st.one_of(st.text(), st.binary(), ANY.map(lambda text: f"data:image/png;base64,{text}"), ANY.map("b'{}'".format))
)
@example("{'bytes': b'" + "x" * 5000)
def test_any_cell_is_an_image_a_path_or_nothing(cell):
    found = image_or_path(cell)
    assert found is None or (found and isinstance(found, bytes | str)) or found == b""


@given(ANY, st.lists(ANY.map(str.strip), max_size=4))
def test_any_cell_is_texts_and_lists_of_them_are_read_back(cell, several):
    assert all(isinstance(text, str) for text in texts(cell))
    assert texts(json.dumps(several)) == texts(str(several)) == several


def test_a_column_named_twice_is_no_guess(tmp_path):
    (tmp_path / "t.csv").write_text("image,caption,caption\na.jpg,x,y\n")
    with pytest.raises(UsageError, match="more than one column `caption`"):
        read_table(tmp_path / "t.csv", TableSource(captions="t.csv"))


# ---------------------------------------------------------------- paths

RAW = st.one_of(
    st.binary(min_size=1, max_size=30),
    st.lists(st.sampled_from([b"%", b"25", b"E9", b"\xe9", b"2", b"%25", b".", b"/", b"CON", b"\xc3\xa9"])).map(
        b"".join
    ),
    st.binary(min_size=200, max_size=5000),
).map(lambda raw: raw.replace(b"\0", b"0"))


@given(RAW)
@example(b"..")
@example(b"aux.jpg ")
@example(b"%" * 3000)
def test_any_name_has_a_spelling_that_leads_back(raw):
    name = os.fsdecode(raw)
    text = to_text(name)
    text.encode()
    assert os.fsencode(to_name(text)) == raw
    if raw.decode("utf-8", "ignore").encode() == raw and b"%" not in raw:
        assert text == name


@given(RAW, RAW)
def test_no_two_names_share_a_spelling(one, other):
    assert (to_text(os.fsdecode(one)) == to_text(os.fsdecode(other))) == (one == other)


@given(RAW.filter(lambda raw: raw.strip(b"/.") and len(raw) < 200))
def test_a_walk_reads_the_very_file(tmp_path_factory, raw):
    """On a real disk: the spelling of a walk opens what was written, and sorts as itself."""
    from clipline.embed.sources.folder import Folder

    top = tmp_path_factory.mktemp("walk")
    file = top / os.fsdecode(raw.replace(b"/", b"_").lstrip(b".") + b"x.jpg")
    file.write_bytes(raw)
    items = list(Folder(top))
    assert [item.read() for item in items] == [raw]
    assert (top / to_name(items[0].path)).read_bytes() == raw


# ---------------------------------------------------------------- names in archives

PART = st.one_of(st.sampled_from(["..", ".", "", "C:", "a", "a ", "CON", "é", "e\u0301", "\0", "\udcff", "~"]), TEXT)
MEMBER = st.lists(PART, min_size=1, max_size=6).flatmap(
    lambda parts: st.sampled_from(["/", "\\"]).map(lambda slash: slash.join(parts))
)


@given(MEMBER)
@example("/etc/passwd")
@example("a/../../b")
@example("\\\\server\\share")
@example("")
@example("c:\\x")
def test_a_safe_name_stays_in_its_folder(name):
    try:
        safe = safe_name(name, "a.zip")
    except CliplineError as error:
        assert str(error).startswith("a.zip: ")
        return
    safe.encode()
    assert "\0" not in safe
    inside = os.path.normpath(os.path.join("/top/folder", safe))  # noqa: PTH118 - as the system joins them
    assert inside == "/top/folder" or inside.startswith("/top/folder/")
    assert not re.match(r"[A-Za-z]:/", safe.replace("\\", "/"))
    assert safe_name(safe, "a.zip") == safe
    assert "/" not in flat_name(safe)


@given(st.lists(MEMBER.filter(lambda name: "/" in name or name), max_size=6))
def test_flat_names_are_as_many_as_files_whatever_the_case(names):
    try:
        flat = flat_names(dict.fromkeys(names), "a.zip")
    except CliplineError as error:
        assert "clash" in str(error)
        return
    assert sorted(flat.values()) == sorted(set(names))
    assert len({unicodedata.normalize("NFC", name).casefold() for name in flat}) == len(flat)


@given(st.lists(MEMBER, min_size=1, max_size=5))
def test_a_zip_of_any_names_lists_them_or_refuses(tmp_path, names):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in dict.fromkeys(names):
            try:
                archive.writestr(zipfile.ZipInfo(name), b"x")
            except (UnicodeEncodeError, struct.error):
                assume(False)
    try:
        members = Zip(path).members
    except CliplineError as error:
        assert str(path) in str(error)
        assert not isinstance(error, DamagedError)
        return
    assert all(name == member.name and ".." not in name.split("/") for name, member in members.items())


# ---------------------------------------------------------------- settings

SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXT,
    st.sampled_from([10**400, -(10**30), "~nobody/x", "\0", "a" * 10_000, "hub", "random", "auto", "1e-4", [[]] * 3]),
    st.dates(), st.datetimes().map(lambda time: time.replace(fold=0)), st.binary(max_size=5),
)  # fmt: skip
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(TEXT, st.integers(), st.none(), st.booleans(), st.floats()), inner, max_size=3),
    ),
    max_leaves=6,
)
FILES = {
    path: (kind, read_yaml(path))
    for kind, paths in (
        (Params, [ROOT / "params.yaml"]),
        (Dataset, sorted((ROOT / "configs/data").glob("*.yaml"))),
        (Recipe, sorted((ROOT / "configs/recipe").glob("*.yaml"))),
    )
    for path in paths
}


def places(value: object, above: tuple = ()) -> list[tuple]:
    """The keys that lead to every value in a settings file, the file itself first."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(keys for key, inner in pairs for keys in places(inner, (*above, key)))]


@given(st.data(), st.sampled_from(sorted(FILES)), VALUE)
def test_any_value_in_any_place_is_settings_or_an_error_with_file_and_key(data, path, value):
    kind, values = FILES[path]
    values = copy.deepcopy(values)
    keys = data.draw(st.sampled_from(places(values)))
    if keys:
        inner = values
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
    else:
        values = value
    try:
        validate(kind, values, "configs/x.yaml")
    except UsageError as error:
        lines = str(error).splitlines()
        assert all(line.startswith("configs/x.yaml: ") for line in lines), lines
        assert all(len(line) < 2000 for line in lines), max(map(len, lines))
        if keys:
            # The key; or, where it makes another one impossible, a sentence that names keys of the file.
            tops = "|".join(FILES[path][1])
            assert all(re.search(rf"^configs/x\.yaml: (?:{tops})\b|\b(?:{tops})\.\w", line) for line in lines), lines


def mappings(path: Path) -> list[tuple]:
    """The keys that lead to each mapping of a settings file, except `args`, which other libraries define."""
    values, paths = FILES[path][1], []
    for keys in places(values):
        inner = values
        for key in keys:
            inner = inner[key]
        if isinstance(inner, dict) and "args" not in keys:
            paths.append(keys)
    return paths


@given(st.data(), st.sampled_from(sorted(FILES)), st.one_of(TEXT, st.integers(), st.none()))
def test_any_key_in_any_mapping_is_an_error_that_names_it(data, path, key):
    kind, values = FILES[path]
    values = copy.deepcopy(values)
    inner = values
    for part in data.draw(st.sampled_from(mappings(path))):
        inner = inner[part]
    assume(key not in inner)
    inner[key] = 1
    with pytest.raises(UsageError) as caught:
        validate(kind, values, "configs/x.yaml")
    assert str(caught.value).startswith("configs/x.yaml: ")
    assert str(UsageError(f"unknown key `{shorten(key)}`")) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


YAML_PIECES = (
    *("a", ": ", "\n", "- ", "[", "]", "{", "}", "&x ", "*x", "<<: ", "!!int ", "!!float ", "!!binary ", "!!set "),
    *(
        "!!omap ",
        "!!timestamp ",
        "2001-99-99",
        "? ",
        "| ",
        "> ",
        "%YAML 9.9\n",
        "---\n",
        "0b",
        "0o9",
        "0x",
        "1_",
        ".inf",
    ),
    *("~", "'", '"', "\t", "#", "1" * 5000),
)
YAML_TEXT = st.lists(st.sampled_from(YAML_PIECES), max_size=12).map("".join)


@given(st.one_of(st.binary(max_size=60), st.one_of(TEXT, YAML_TEXT).map(str.encode)))
@example(b"0x" + b"1" * 5000)
@example(b"a: 2001-99-99\n")
@example(b"a: !!int x\n")
@example(b"a: " + b"1" * 5000 + b"\n")
@example(b"[" * 600)
@example(b"a: &a [*a]\n")
@example(b"? [1, {}]\n: x\n")
@example(b"<<: 3\n")
def test_any_bytes_are_yaml_or_an_error_with_the_file(tmp_path, data):
    path = tmp_path / "x.yaml"
    path.write_bytes(data)
    try:
        values = read_yaml(path)
        validate(Params, values, str(path))
    except UsageError as error:
        assert all(line.startswith(str(path)) for line in str(error).splitlines()), str(error)


@given(VALUE)
def test_what_is_written_as_yaml_is_refused_or_read_alike(tmp_path, value):
    path, writer = tmp_path / "x.yaml", YAML(typ="safe", pure=True)
    # Else it writes U+0085 bare, which is a line's end, and breaks lines in places that it reads as a space.
    writer.allow_unicode, writer.width = False, 1_000_000
    try:
        with path.open("w", encoding="utf-8") as file:
            writer.dump({"data": value}, file)
    except Exception:  # noqa: BLE001 - ruamel's writer may refuse what hypothesis makes up
        assume(False)
    try:
        read = read_yaml(path)
    except UsageError as error:
        assert str(error).startswith(f"{path}")
    else:
        assert spelled(read) == spelled({"data": value})


def spelled(value: object) -> object:
    """A value to compare: NaN equals itself, True is not 1, and keys may stand in any order."""
    if isinstance(value, dict):
        return sorted((repr(key), repr(spelled(inner))) for key, inner in value.items())
    return [spelled(inner) for inner in value] if isinstance(value, list) else repr(value)


@pytest.mark.parametrize("weights", ["~nobody-of-that-name/x", "a\0b", "a" * 5000, "/" + "b/" * 5000])
def test_weights_that_can_be_no_path_name_their_key(weights):
    values = copy.deepcopy(FILES[ROOT / "configs/recipe/mobilenet_minilm.yaml"][1])
    values["text"]["weights"] = weights
    with pytest.raises(UsageError, match=r"^x\.yaml: weights: [^\n]{1,300}$"):
        validate(Recipe, values, "x.yaml")


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000, "../data/scenes", "", ".", "~", "é/../scenes"])
@pytest.mark.parametrize("key", ["data", "recipe"])
def test_names_of_settings_files_are_names_alone(tmp_path, name, key):
    values = FILES[ROOT / "params.yaml"][1] | {key: name}
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    with (tmp_path / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(values, file)
    with pytest.raises(UsageError, match=rf"params\.yaml: {key}: no such {key}: "):
        load_run(tmp_path)


@pytest.mark.parametrize("delimiter", ["", "ab", "\n", '"', "\r", "\0"])
def test_a_delimiter_is_one_character_that_csv_takes(delimiter):
    values = copy.deepcopy(FILES[ROOT / "configs/data/folder_csv.yaml"][1])
    values["source"]["delimiter"] = delimiter
    with pytest.raises(UsageError, match=r"x\.yaml: source\.delimiter: "):
        validate(Dataset, values, "x.yaml")


# ---------------------------------------------------------------- manifests

EMBEDDINGS = {
    "model_id": "a1", "variant": "fp32-1f0c", "dim": 3, "dtype": "float16", "root": "../photos", "model": "../model",
    "schema_version": 1, "complete": True, "counts": {"images": 2, "rows": 2, "errors": 0, "parts": 1},
}  # fmt: skip
GRAPH = {
    "file": "image.onnx", "precision": "fp32", "variant": "fp32-1", "sha256": "0", "bytes": 1, "min_cosine": 1.0,
    "max_abs": 0.0,
}  # fmt: skip
BUNDLE = {
    "schema_version": 1, "model_id": "a", "dim": 3, "recipe": "r", "dataset": "d", "dataset_fingerprint": "f",
    "opset": 18, "image": {"fp32": GRAPH}, "text": {"fp32": GRAPH}, "metrics": {"r": 1.5},
}  # fmt: skip
PREPROCESS = {"size": 16, "resize": "shortest", "mean": [0.5], "std": [1.0]}
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)


@st.composite
def changed(draw, values: dict) -> bytes:
    """JSON with any value in one place, or any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.one_of(st.binary(max_size=50), JSON.map(lambda value: json.dumps(value).encode())))
    values = copy.deepcopy(values)
    keys = draw(st.sampled_from(places(values)[1:]))
    inner = values
    for key in keys[:-1]:
        inner = inner[key]
    if draw(st.booleans()):
        inner[keys[-1]] = draw(JSON)
    elif isinstance(inner, dict):
        del inner[keys[-1]]
    return json.dumps(values).encode()


@given(changed(EMBEDDINGS))
@example(b"[" * 100_000)
@example(json.dumps(EMBEDDINGS | {"root": "\ud800"}).encode())
@example(json.dumps(EMBEDDINGS | {"schema_version": 3}).encode())
def test_any_json_is_a_manifest_of_embeddings_or_a_usage_error(tmp_path, data):
    (tmp_path / "manifest.json").write_bytes(data)
    try:
        manifest = embeddings.read(tmp_path)
    except UsageError as error:
        assert str(tmp_path) in str(error)
        return
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    assert embeddings.read(tmp_path) == manifest
    assert manifest.root_folder(tmp_path).is_relative_to(tmp_path) or os.path.isabs(to_name(manifest.root))  # noqa: PTH117


@given(changed(BUNDLE), changed(PREPROCESS))
@example(json.dumps(BUNDLE).encode(), json.dumps(PREPROCESS).encode())
def test_any_json_is_a_bundle_or_a_usage_error(tmp_path, manifest, preprocess):
    (tmp_path / "manifest.json").write_bytes(manifest)
    (tmp_path / "preprocess.json").write_bytes(preprocess)
    try:
        bundle = Bundle(tmp_path)
    except UsageError as error:
        assert str(tmp_path) in str(error)
    else:
        assert isinstance(bundle.manifest, BundleManifest)
