from clipline.errors import UsageError, first_few, shorten


def test_a_terminal_obeys_no_name_of_a_file():
    assert str(UsageError("a\x1b[2Jb\x07\x9b c\n\td")) == "a\\x1b[2Jb\\x07\\x9b c\n\td"


def test_data_is_quoted_on_one_line_and_no_longer_than_a_line():
    assert shorten("a\tb\nc\x1b") == "a\\tb\\nc\\x1b"
    assert shorten("x" * 216_717) == "x" * 100 + "… (216,717 characters)"
    assert shorten("x" * 100) == "x" * 100
    assert shorten("\udce9\u2028") == "\\udce9\\u2028"
    assert first_few(["a", "b", "c"], 2) == "a, b, and 1 more"
    assert first_few(["x" * 60] * 3) == "x" * 60 + ", and 2 more"
    assert first_few(["x" * 9999]) == "x" * 100 + "… (9,999 characters)"
