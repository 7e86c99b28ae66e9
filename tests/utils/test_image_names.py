"""Which names are images, and which folders a machine fills."""

import pytest
from PIL import Image

from clipline.image import FORMATS
from clipline.utils.image_names import SUFFIXES, is_hidden, is_image, machine_folder


def test_every_suffix_of_the_formats_that_are_opened():
    """HEIC is listed as well: it is an error with the reason."""
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert known | {".heic", ".heif"} == SUFFIXES


def test_images_and_hidden_names():
    assert [
        name for name in ("a.JPG", "a.heic", "a\n.png", ".jpg", "jpg", "a.jpg.part", "a.jpg/") if is_image(name)
    ] == [*("a.JPG", "a.heic", "a\n.png")]
    assert [is_hidden(path) for path in (".a.jpg", "x/._a.jpg", ".x/a.jpg", "x.y/a.b.jpg", "a..jpg")] == [
        *(True, True, True, False, False)
    ]


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "@eaDir"),
        ("2024/May/@eaDir/", "2024/May/@eaDir"),
        ("#recycle/a.jpg", "#recycle"),
        ("a/@Recycle/b/c.jpg", "a/@Recycle"),
        ("$RECYCLE.BIN/S-1/a.jpg", "$RECYCLE.BIN"),
        ("System Volume Information/a.jpg", "System Volume Information"),
        ("__MACOSX/a.jpg", "__MACOSX"),
        ("lost+found/", "lost+found"),
        ("Catalog Previews.lrdata/0/1.jpg", "Catalog Previews.lrdata"),
        ("me/appdata_oc1a2b3c4d5e/preview/1.jpg", "me/appdata_oc1a2b3c4d5e"),
        ("P.photoslibrary/resources/derivatives/1.jpeg", "P.photoslibrary/resources"),
        ("P.photoslibrary/originals/0/1.jpeg", None),
        ("P.aplibrary/Masters/2010/1.jpg", None),
        ("P.photolibrary/Thumbnails/1.jpg", "P.photolibrary/Thumbnails"),
        ("P.photoslibrary/", None),
        ("@eaDir", None),
        ("my@eaDir/a.jpg", None),
        ("@eaDirs/a.jpg", None),
        ("resources/a.jpg", None),
        ("lost+found.jpg", None),
    ],
)
def test_machine_folders(path, folder):
    assert machine_folder(path) == folder


def test_what_was_asked_for_is_no_machine_folder():
    """But a photo library that was asked for still has such folders in it."""
    assert machine_folder("a.jpg", "@eaDir") is None
    assert machine_folder("b/@eaDir/a.jpg", "@eaDir") == "b/@eaDir"
    assert machine_folder("resources/derivatives/1.jpg", "P.photoslibrary") == "resources"
    assert machine_folder("originals/1.jpg", "P.photoslibrary") is None
