"""What a benchmark's figures were measured on."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from clipline.doctor import machine


def machine_facts() -> dict[str, Any]:
    """Date, CPU, system, versions, and what the image formats' libraries are."""
    versions = machine.versions() | machine.wheels()
    for name in ("torch", "open_clip_torch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": str(machine.cpu()),
        "system": machine.system(),
        "versions": versions,
        "formats": {each.name: each.note for each in machine.formats() if each.note},
    }
