"""The machine: versions, onnxruntime's wheels, CPU cores, and the image formats that Pillow reads."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from clipline.runtime.session import load_onnxruntime
from clipline.utils import cores

PACKAGES = ("clipline", "numpy", "pillow", "pyarrow", "tokenizers")
# All of them install the module `onnxruntime`, and overwrite each other's files.
WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-training")
REINSTALL = "pip uninstall {}, then pip install 'clipline[cpu]' or 'clipline[gpu]'"
# Instruction sets that make a model fast: wide vectors, and products of bytes and of bfloat16.
FLAGS = {
    "AVX2": ("avx2", "asimd"),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni", "asimddp"),
    "bf16": ("avx512_bf16", "bf16"),
    "AMX": ("amx_int8", "amx_bf16"),
}


@dataclass(frozen=True)
class Cpu:
    """The CPU.

    model: its name. flags: the names in FLAGS that it supports. cores: of the machine. affinity, quota: the limits on
    this process, in cores. usable: the cores that this process may use.
    """

    model: str
    flags: list[str]
    cores: int
    affinity: int
    quota: float | None
    usable: int

    def __str__(self) -> str:
        limits = [f"affinity {self.affinity}"] + ([f"cgroup quota {self.quota:g}"] if self.quota is not None else [])
        return f"{self.model}, {self.usable} of {self.cores} cores ({', '.join(limits)}); {' '.join(self.flags)}"


def cpu() -> Cpu:
    """The CPU, and how many of its cores this process may use."""
    info = dict(_cpuinfo())
    supported = set(info.get("flags", info.get("Features", "")).split())
    return Cpu(
        model=info.get("model name") or platform.processor() or platform.machine(),
        flags=[name for name, flags in FLAGS.items() if supported.intersection(flags)],
        cores=os.cpu_count() or 1,
        affinity=cores.affinity(),
        quota=cores.quota(),
        usable=cores.available(),
    )


def _cpuinfo() -> Iterator[tuple[str, str]]:
    """Names and values of the first processor in /proc/cpuinfo; nothing where the system has no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return
    for line in text.split("\n\n", 1)[0].splitlines():
        name, _, value = line.partition(":")
        yield name.strip(), value.strip()


def system() -> str:
    """The versions of Python and of the system, e.g. `Python 3.11.7, Linux x86_64`."""
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def versions() -> dict[str, str]:
    """Package -> version, of the packages that embedding needs; for onnxruntime see `wheels`."""
    return {name: metadata.version(name) for name in PACKAGES}


def wheels() -> dict[str, str]:
    """Name -> version of the installed distributions that contain the module `onnxruntime`."""
    installed = {}
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if name in WHEELS:
            installed.setdefault(name, distribution.version)  # Python imports the first on the path
    return dict(sorted(installed.items()))


def wheel_problems(installed: dict[str, str]) -> list[str]:
    """Problems of the wheels `installed`: more than one, or a module of another version."""
    fix = f"Fix: {REINSTALL.format(' '.join(installed))}"
    if len(installed) > 1:
        both = " and ".join(f"{name} {version}" for name, version in installed.items())
        return [f"{both} are installed: each overwrites the other's files, and CUDA is lost silently. {fix}"]
    imported = load_onnxruntime().__version__
    for name, version in installed.items():
        if version.partition("+")[0] != imported.partition("+")[0]:
            return [f"{name} {version} is installed, but its module is of {imported}: overwritten. {fix}"]
    return []


@dataclass(frozen=True)
class Format:
    """An image format. read: whether Pillow reads it here. note: the library, or what to do without it."""

    name: str
    read: bool
    note: str = ""


# Name, Pillow's name, and the library that Pillow may be built without.
_FORMATS = (
    ("JPEG", "JPEG", "jpg"),
    ("PNG", "PNG", "zlib"),
    ("WebP", "WEBP", "webp"),
    ("GIF", "GIF", None),
    ("BMP", "BMP", None),
    ("TIFF", "TIFF", "libtiff"),
    ("AVIF", "AVIF", "avif"),
    ("HEIC", "HEIF", None),
)


def formats() -> list[Format]:
    """The common formats of photos. JPEG names its library: others than libjpeg-turbo are slow."""
    from PIL import Image, features

    Image.init()
    known = []
    for name, identifier, library in _FORMATS:
        read = identifier in Image.OPEN and (library is None or bool(features.check(library)))
        note = "" if read else "convert such files to JPEG"
        if name == "JPEG" and read:
            turbo = features.version_feature("libjpeg_turbo")
            note = f"libjpeg-turbo {turbo}" if turbo else "without libjpeg-turbo: slow"
        known.append(Format(name, read, note))
    return known
