"""`clipline match`: captions for an image, and the multiple-choice test of a split."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipline.errors import UsageError
from clipline.match import picture
from clipline.match.captions import Captioned, read
from clipline.match.quiz import Quiz, ask
from clipline.runtime.model import OnnxModel
from tests.factories import run

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}


def match(*arguments: object) -> SimpleNamespace:
    return run("match", *arguments, "--provider", "cpu")


@pytest.fixture
def folder(make_bundle, tmp_path, monkeypatch):
    """In the current folder: models/onnx, and data/raw with 12 images in three colours, two captions each."""
    monkeypatch.chdir(tmp_path)
    bundle = make_bundle(tmp_path / "models" / "onnx")
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"logit_scale": 2.0}))
    raw = tmp_path / "data" / "raw"
    (raw / "images").mkdir(parents=True)
    rows = []
    for number in range(12):
        colour = list(COLOURS)[number % 3]
        Image.new("RGB", (40, 30), COLOURS[colour]).save(raw / "images" / f"{number:02d}.png")
        split = "test" if number < 9 else "train"
        rows += [(f"{number:02d}.png", f"{words} {colour}", split) for words in ("a", "a picture")]
    (tmp_path / "data" / "prepared").mkdir()
    names = ("image", "caption", "split")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), "data/prepared/captions.parquet")
    for file, width in (("captions.csv", 3), ("plain.csv", 2)):
        with (raw / file).open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerows([names[:width], *(row[:width] for row in rows)])
    return tmp_path


# ------------------------------------------------------------ an image and captions


def test_captions_are_ranked(folder):
    done = match("data/raw/images/00.png", "--caption", "blue", "--caption", "a picture", "--caption", "red")
    assert (done.code, done.err) == (0, "")
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [row[3] for row in rows] == ["red", "a picture", "blue"]
    # Cosines 1, 0 and -1/2 at a scale of 2.
    weights = np.exp([2.0, 0.0, -1.0])
    assert [float(row[1]) for row in rows] == pytest.approx((weights / weights.sum()).tolist(), abs=1e-4)
    assert [float(row[2]) for row in rows] == pytest.approx([1, 0, -0.5], abs=1e-4)


def test_captions_from_a_file_as_json(folder):
    Path("captions.txt").write_text("red\n\n  blue \n")
    content = json.loads(match("data/raw/images/02.png", "--captions", "captions.txt", "--json").out)
    assert content["image"] == "data/raw/images/02.png"
    assert [(caption["rank"], caption["caption"]) for caption in content["captions"]] == [(1, "blue"), (2, "red")]
    assert sum(caption["probability"] for caption in content["captions"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "name an IMAGE with captions, or --quiz"),
        (("a.png", "--caption", "red"), 2, "1 caption: there is nothing to choose"),
        (("a.png", "--quiz", "data/prepared"), 2, "name an IMAGE with captions, or --quiz"),
        (("--quiz", "data/prepared", "--caption", "x"), 2, "captions of its own"),
        (("a.png", "--caption", "red", "--caption", "b", "--out", "q.png"), 2, "are for --quiz"),
        (("a.png", "--caption", "red", "--caption", "blue"), 1, "a.png: "),
        (("data/raw/images/00.png", "--caption", "red", "--caption", " "), 2, "caption 1 is empty"),
        (("data/raw/images/00.png", "--caption", "red", "--caption", "\udce9"), 2, "caption 1 is not valid text"),
        (("a.png", "--caption", "red", "--caption", "blue", "--model", "none"), 2, "none/manifest.json: no such file"),
        (("--quiz", "data/prepared", "--out", "q.txt"), 2, "a picture's name ends in"),
        (("--quiz", "data/prepared", "--split", "dev"), 2, "no split 'dev'; it has: test, train"),
        (("--quiz", "data/prepared", "--choices", "10"), 2, "9 images, too few for 10 choices"),
        (("--quiz", "data/raw/plain.csv", "--split", "test"), 2, "has no column `split`"),
        (("--quiz", "data/raw"), 2, "captions.parquet: no such file"),
        (("--quiz", "data/prepared", "--root", "data"), 2, "name the folder of the images with --root"),
    ],
)
def test_bad_usage(folder, arguments, code, message):
    done = match(*arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.error


# ------------------------------------------------------------ the split


def test_the_same_split_from_prepared_and_from_a_csv(folder):
    prepared = read(Path("data/prepared"), None, None)
    table = read(Path("data/raw/captions.csv"), "test", None)
    for data in (prepared, table):
        assert data.folder == Path("data/raw/images")
        assert data.names == [f"{number:02d}.png" for number in range(9)]
        assert data.captions[:3] == ["a red", "a picture red", "a green"]
        assert data.caption_image.tolist() == [number // 2 for number in range(18)]
    assert len(read(Path("data/raw/plain.csv"), None, None).names) == 12
    assert read(Path("data/prepared"), "train", None).names == ["09.png", "10.png", "11.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"image,text\n1.png,red\n", "no column caption"),
        (b"", "no column caption or image"),
        (b"image,caption\n", "no captions in it"),
        (b"image,caption\n1.png,caf\xe9\n", "not a CSV in UTF-8"),
        (b"image,caption,split\n1.png,red,test\n2.png,blue\n", "line 3 has no `split`"),
        (b"image,caption,split\n1.png,red\n2.png,blue,train\n", "line 2 has no `split`"),
    ],
)
def test_tables_that_cannot_serve(tmp_path, text, message):
    (tmp_path / "c.csv").write_bytes(text)
    with pytest.raises(UsageError, match=message):
        read(tmp_path / "c.csv", None, None)


# ------------------------------------------------------------ questions


@pytest.fixture
def data_and_quiz(folder):
    """(data, quiz) of the test split, with three choices."""
    data = read(Path("data/prepared"), None, None)
    quiz, failures = ask(OnnxModel(Path("models/onnx"), provider="cpu", threads=1), data, 3, seed=0)
    assert failures == []
    return data, quiz


def test_questions(data_and_quiz):
    data, quiz = data_and_quiz
    assert quiz.choices.shape == quiz.probabilities.shape == (18, 3)
    rows = np.arange(18)
    assert quiz.choices[rows, quiz.answers].tolist() == list(range(18)), "every caption is asked about once"
    owners = data.caption_image[quiz.choices]
    assert all(len(set(row)) == 3 for row in owners.tolist()), "captions of three images"
    assert (owners[rows, quiz.answers] == quiz.images).all()
    assert len(set(quiz.answers.tolist())) == 3, "the true one stands anywhere"
    assert quiz.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_right_is_what_the_colours_say(data_and_quiz):
    """The model knows colours: it is right unless another choice has the same one."""
    data, quiz = data_and_quiz
    colours = np.array([caption.split()[-1] for caption in data.captions])[quiz.choices]
    true = colours[np.arange(18), quiz.answers]
    expected = (colours == true[:, None]).sum(axis=1) == 1
    assert quiz.right.tolist() == expected.tolist()
    assert 0 < quiz.accuracy < 100, "both happen"
    assert quiz.accuracy == pytest.approx(100 * expected.mean())
    assert quiz.chance == pytest.approx(100 / 3)


def test_a_seed_draws_the_same_and_another_one_others(data_and_quiz):
    data, quiz = data_and_quiz
    model = OnnxModel(Path("models/onnx"), provider="cpu", threads=1)
    again, other = (ask(model, data, 3, seed)[0] for seed in (0, 1))
    assert np.array_equal(again.choices, quiz.choices) and np.array_equal(again.probabilities, quiz.probabilities)
    assert not np.array_equal(other.choices, quiz.choices)


def test_a_tie_is_not_right():
    shares = np.array([[0.5, 0.5], [0.6, 0.4], [0.5, 0.5]], np.float32)
    quiz = Quiz(np.arange(3), np.zeros((3, 2), np.int64), np.array([0, 0, 1]), shares)
    assert quiz.right.tolist() == [False, True, False]
    assert quiz.uncertainty == pytest.approx(100 * np.std([0, 1, 0]) / np.sqrt(3))


def test_the_uncertainty_counts_images_not_captions():
    shares = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)[[0, 0, 1, 1]]
    quiz = Quiz(np.array([0, 0, 7, 7]), np.zeros((4, 2), np.int64), np.zeros(4, np.int64), shares)
    assert quiz.uncertainty == pytest.approx(100 * 0.5 / np.sqrt(2))


# ------------------------------------------------------------ the command


def test_every_caption_of_the_split_is_counted(folder, data_and_quiz):
    done = match("--quiz", "data/prepared", "--choices", "3", "-n", "2", "--out", "new/quiz.png")
    assert done.code == 0
    accuracy = f"{data_and_quiz[1].accuracy:.1f}%"
    assert done.out.startswith(f"the test split of data/prepared: {accuracy} (± ")
    assert "of 18 questions on 9 images right; by chance 33.3%" in done.out
    assert "drawn: new/quiz.png" in done.err and Path("new/quiz.png").is_file()
    figures = json.loads(match("--quiz", "data/raw/captions.csv", "--choices", "3", "--json").out)
    assert figures["accuracy"] == round(data_and_quiz[1].accuracy, 2), "a CSV asks the same"
    assert (figures["questions"], figures["images"], figures["choices"], figures["chance"]) == (18, 9, 3, 33.33)


def test_broken_images_are_left_out_and_listed(folder):
    Path("data/raw/images/03.png").write_text("no image")
    done = match("--quiz", "data/prepared", "--choices", "3")
    assert done.code == 3 and "of 16 questions on 8 images" in done.out
    assert "1 of 9 images could not be used" in done.error and "03.png: decode: not an image" in done.error
    assert match("--quiz", "data/prepared", "--choices", "3", "--max-errors", "1").code == 0


def colour_share(path: Path, colour: str) -> int:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    target = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return int((np.abs(pixels - target).max(axis=2) <= 1).sum())


def test_the_picture_frames_what_is_right_and_what_is_wrong(folder):
    """One question each: a frame and bars of its colour, and of the other's none or less."""
    data = read(Path("data/prepared"), None, None)
    choices, answers = np.array([[0, 2]]), np.array([0])
    for name, shares in (("right", [[0.9, 0.1]]), ("wrong", [[0.1, 0.9]])):
        quiz = Quiz(np.array([0]), choices, answers, np.array(shares, np.float32))
        picture.draw(quiz, data, 5, 0, Path(f"{name}.png"))
    assert colour_share(Path("right.png"), picture.RED) == 0
    assert colour_share(Path("right.png"), picture.GREEN) > 4000
    assert colour_share(Path("wrong.png"), picture.RED) > 4000
    assert 0 < colour_share(Path("wrong.png"), picture.GREEN) < 1500, "the right one is marked there as well"


def test_marks_are_words_too():
    data = Captioned(Path(), ["a"], ["one", "two", "three"], np.array([0, 0, 0]), "")
    quiz = Quiz(np.zeros(2, int), np.array([[0, 1, 2]] * 2), np.array([1, 0]), np.array([[0.2, 0.5, 0.3]] * 2))
    marks = [[option.mark for option in picture._options(quiz, data, row)] for row in (0, 1)]
    assert marks == [["", "picked: right", ""], ["the right one", "picked: wrong", ""]]
