from clipline.errors import UsageError


def test_a_terminal_obeys_no_name_of_a_file():
    assert str(UsageError("a\x1b[2Jb\x07\x9b c\n\td")) == "a\\x1b[2Jb\\x07\\x9b c\n\td"
