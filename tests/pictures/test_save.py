"""Saving pictures: sizes that a format cannot hold are refused."""

import pytest
from PIL import Image

from clipline.errors import UsageError
from clipline.pictures.gallery import save


@pytest.mark.parametrize(("suffix", "most"), [(".webp", 16_383), (".jpg", 65_500)])
def test_the_longest_side(tmp_path, suffix, most):
    path = tmp_path / f"long{suffix}"
    save(Image.new("RGB", (1, most)), path)
    assert Image.open(path).size == (1, most)
    path.write_text("old")
    with pytest.raises(UsageError, match=rf"at most {most:,} pixels a side.* 1 x {most + 1:,}\. Fix: .*\.png"):
        save(Image.new("RGB", (1, most + 1)), path)
    assert path.read_text() == "old"
    save(Image.new("RGB", (1, most + 1)), tmp_path / "long.png")
