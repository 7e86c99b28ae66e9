"""clipline: from a folder of captioned images to your own CLIP in production.

`from clipline import Clip` gives the exported model in Python; see `clipline.api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipline.api import Clip

__all__ = ["Clip"]


def __getattr__(name: str) -> object:
    # Loaded when it is first used: numpy and onnxruntime take time.
    if name == "Clip":
        from clipline.api import Clip

        return Clip
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
