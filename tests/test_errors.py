import pickle

from clipline.errors import UsageError, escape, first_few, printable, shorten


def test_one_rule_for_every_printed_line():
    assert escape("a\x1b[2Jb\x07\x9b c\n\td\r\0\u2028\u202e") == r"a\x1b[2Jb\x07\x9b c\n\td\r\x00\u2028\u202e"
    assert escape("back\\slash é 日 \u200e\udce9") == "back\\slash é 日 \u200e\udce9"
    assert printable("caf\udce9 \ud83d\t") == r"caf\xe9 \ud83d\t"


def test_each_line_of_a_message_stays_one():
    """Also in an error that comes from another process."""
    error = UsageError("a\nb\x1b", "  c\td \udce9")
    assert str(error) == "a\\nb\\x1b\n  c\\td \\xe9"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_data_is_quoted_on_one_line_and_no_longer_than_a_line():
    assert shorten("a\tb\nc\x1b") == "a\\tb\\nc\\x1b"
    assert shorten("x" * 216_717) == "x" * 100 + "… (216,717 characters)"
    assert shorten("x" * 100) == "x" * 100
    assert shorten("\udce9\u2028") == "\\xe9\\u2028"
    assert first_few(["a", "b", "c"], 2) == "a, b, and 1 more"
    assert first_few(["x" * 60] * 3) == "x" * 60 + ", and 2 more"
    assert first_few(["x" * 9999]) == "x" * 100 + "… (9,999 characters)"
