"""Each cause has its remedy, wherever it happens."""

import errno
import os
import sqlite3

import pytest

from clipline.utils.remedies import CAUSES, HOME_HINT, remedy, why


def raised(error: Exception, above: Exception) -> Exception:
    """`above` as it comes when raised because of `error`."""
    try:
        try:
            raise error
        except type(error) as below:
            raise above from below
    except type(above) as caught:
        return caught


def system(number: int, file: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), file)


HTTP = "API request to endpoint /api/2.0/mlflow/runs failed with error code {} != 200."
# In the order of CAUSES: the errors that each is for.
ERRORS = [
    [Exception(HTTP.format(401)), Exception("INTERNAL_ERROR: Unauthorized"), Exception("You are not authenticated")],
    [Exception(HTTP.format(403)), Exception("PERMISSION_DENIED: no")],
    [Exception(HTTP.format(404)), Exception("ENDPOINT_NOT_FOUND")],
    [ConnectionError("it answers, but not as an MLflow server does"), Exception("body was not in a valid JSON format")],
    [Exception("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)")],
    [Exception("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate")],
    [Exception("Max retries exceeded (Caused by ResponseError('too many 503 error responses'))")],
    [Exception("[Errno -2] Name or service not known"), Exception("Temporary failure in name resolution")],
    [raised(system(errno.ECONNREFUSED), Exception("a page long")), Exception("[Errno 111] Connection refused")],
    [system(errno.ETIMEDOUT), Exception("Read timed out. (read timeout=5)"), Exception("Network is unreachable")],
    [Exception("its schema (ffff) is of a newer MLflow than this one"), Exception("Can't locate revision 'f'")],
    [Exception("its schema (0000) is of an older MLflow than this one")],
    [sqlite3.DatabaseError("file is not a database"), sqlite3.DatabaseError("database disk image is malformed")],
    [sqlite3.OperationalError("database is locked"), system(errno.EBUSY)],
    [sqlite3.OperationalError("attempt to write a readonly database")],
    [sqlite3.OperationalError("unable to open database file")],
    [Exception("got unsupported URI 'host:5000' for"), Exception("The filesystem tracking backend is in maintenance")],
    [ModuleNotFoundError("No module named 'psycopg2'")],
    [
        system(errno.ENOSPC),
        raised(system(errno.EDQUOT), Exception()),
        sqlite3.OperationalError("database or disk is full"),
    ],
    [system(errno.EROFS), Exception("Read-only file system (os error 30)")],
    [system(errno.EACCES), system(errno.EPERM)],
    [system(errno.ENAMETOOLONG)],
    [system(errno.EMFILE)],
    [system(errno.EFBIG)],
    [system(errno.EIO), system(errno.ESTALE)],
    [system(errno.ENOTDIR), system(errno.EEXIST)],
    [system(errno.EISDIR)],
    [system(errno.ENOENT, "photo 401 unauthorized.jpg")],
    [system(errno.ELOOP)],
]


@pytest.mark.parametrize(("cause", "errors"), zip(CAUSES, ERRORS, strict=True))
def test_cause(cause, errors):
    for error in errors:
        assert remedy(error) == cause.fix.replace(r"\1", "psycopg2"), error


def test_other_causes_and_words():
    assert remedy(RuntimeError("x"), "do that") == "do that"
    assert remedy(RuntimeError("x"), "do that", "database is locked").startswith("end the program")
    assert why(system(errno.ENOSPC)) == "No space left on device. Fix: free some space there"


def test_caches_that_cannot_be_written_in_a_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    for number in (errno.EROFS, errno.EACCES):
        assert remedy(system(number, "/home/somebody/.cache/x")).endswith(HOME_HINT)
        assert HOME_HINT not in remedy(system(number, "/data/x"))
    assert HOME_HINT not in remedy(system(errno.ENOSPC, "/home/somebody/.cache/x"))
