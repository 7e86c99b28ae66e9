"""What the preprocess stage reports: the contents of report.json, and a summary in a few lines."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from clipline.data.captions import Caption
from clipline.data.images import Images
from clipline.data.splits import NAMES
from clipline.data.tokenizer import Encoded

EXAMPLES = 20


def sizes(images: Images, captions: Sequence[Caption]) -> dict[str, dict[str, int]]:
    """{split: {"images", "captions"}}: how many are kept."""
    image_counts = Counter(images.split.values())
    caption_counts = Counter(images.split[caption.image] for caption in captions)
    return {name: {"images": image_counts[name], "captions": caption_counts[name]} for name in NAMES}


def pictures(images: Images, absent: Sequence[str]) -> dict[str, Any]:
    """What became of the images. absent: images of the official lists that the data lack."""
    return {
        "kept": len(images.rows),
        # Always 0: `splits.prove_disjoint` stops the stage where a name or a picture is in two splits.
        "distinct pictures": images.distinct,
        "in two splits": 0,
        "left out": {
            "missing or unreadable": {"count": len(images.broken), "all": images.broken},
            "without captions": _some(images.without_captions),
            "in no split": _some(images.in_no_split),
            "copies of images in another split": _pairs(images.copies.across),
        },
        "kept copies within a split": _pairs(images.copies.within),
        "listed but absent": _some(absent),
    }


def tokens(tokenizer: Tokenizer, source: str, encoded: Encoded) -> dict[str, Any]:
    """The tokenizer's part of report.json."""
    truncated = encoded.full > encoded.tokens.shape[1]
    return {
        "source": source,
        "sha256": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
        "vocab_size": tokenizer.get_vocab_size(),
        "pad_id": tokenizer.padding["pad_id"],
        "max_length": encoded.tokens.shape[1],
        "longest_caption": int(encoded.full.max()),
        "truncated_captions": int(truncated.sum()),
        "truncated_share": round(float(truncated.mean()), 6),
    }


def summary(report: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    lines = [
        f"{name}: {part['images']:,} images, {part['captions']:,} captions" for name, part in report["splits"].items()
    ]
    images, captions, tokenizer = report["images"], report["captions"], report["tokenizer"]
    for reason, part in images["left out"].items():
        if part["count"]:
            lines.append(f"images left out, {reason}: {part['count']:,}")
    for reason, part in captions["dropped"].items():
        lines.append(f"captions dropped, {reason}: {part['count']:,}")
    if images["kept copies within a split"]["count"]:
        lines.append(f"copies within a split, kept: {images['kept copies within a split']['count']:,}")
    lines.append(
        f"tokenizer: {tokenizer['source']}, {tokenizer['vocab_size']:,} tokens; captions cut at "
        f"{tokenizer['max_length']}: {tokenizer['truncated_share']:.2%}"
    )
    return "\n".join(lines)


def _some(items: Sequence[Any]) -> dict[str, Any]:
    return {"count": len(items), "examples": list(items[:EXAMPLES])}


def _pairs(copies: Mapping[str, str]) -> dict[str, Any]:
    return _some([{"image": image, "copy of": original} for image, original in copies.items()])
