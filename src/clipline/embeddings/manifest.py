"""manifest.json of an embeddings folder: what it holds, of which images, by which model.

    manifest.json  errors.parquet  data/part-00000.parquet  data/part-00001.parquet  ...

Nothing but parts is ever in `data`, so that any reader of parquet can be given that folder. Schema 1 had the parts
beside the manifest; `clipline embed` moves them, and everything else reads both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from clipline.embeddings.paths import to_name
from clipline.errors import UsageError

SCHEMA_VERSION = 2
MANIFEST, ERRORS, DATA, PARTS = "manifest.json", "errors.parquet", "data", "part-*.parquet"
TEMPORARY = tuple(f".{name}.*.tmp" for name in (MANIFEST, ERRORS, PARTS))


def part_names(folder: Path) -> list[str]:
    """The names of the parts in order, wherever they lie."""
    # `data` last: a part that is moved there meanwhile is found.
    return sorted({path.name for place in (folder, folder / DATA) for path in place.glob(PARTS)})


def part_path(folder: Path, name: str) -> Path:
    """Where a part is, or, if there is none of this name, is to be written."""
    old, new = folder / name, folder / DATA / name
    return old if old.exists() and not new.exists() else new


class Counts(BaseModel):
    """images = rows + errors; a folder that could not be listed is one error."""

    model_config = ConfigDict(frozen=True)

    images: int
    rows: int
    errors: int
    parts: int


class Identity(BaseModel):
    """What all rows of a folder have in common. root, model: the folders of the images and of the model.

    Both are relative to the embeddings folder, so that the three can be moved together, and percent-escaped as `path`
    is; a root may also be a URL.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model_id: str
    variant: str
    dim: int
    dtype: Literal["float16", "float32"]
    root: str
    model: str


class Manifest(Identity):
    """manifest.json. complete: false during a run, and after one that was interrupted."""

    schema_version: int = SCHEMA_VERSION
    complete: bool = True
    counts: Counts

    @property
    def precision(self) -> str:
        """The precision of the image graph that made the vectors: fp32, fp16 or int8."""
        return self.variant.partition("-")[0]

    @property
    def identity(self) -> Identity:
        """The fields that stay the same from run to run."""
        return Identity(**{name: getattr(self, name) for name in Identity.model_fields})

    def root_folder(self, folder: Path) -> Path:
        """The folder of the images, for the embeddings in `folder`. Not for a URL."""
        return folder / to_name(self.root)

    def model_folder(self, folder: Path) -> Path:
        """The folder of the model, for the embeddings in `folder`."""
        return folder / to_name(self.model)


def precision_for(folder: Path, wanted: str, *, overwrite: bool) -> str:
    """The precision to open a model with: `wanted`, or for `auto` that of the vectors which `folder` holds already.

    All vectors of a folder have one precision. Raises UsageError where its manifest cannot be read.
    """
    if wanted == "auto" and not overwrite and (folder / MANIFEST).is_file():
        return read(folder).precision
    return wanted


def read(folder: Path) -> Manifest:
    """The manifest of an embeddings folder. Raises UsageError where `folder` is none, or a newer clipline wrote it."""
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        if not folder.is_dir():
            why = "no such folder"
        elif part_names(folder):
            why = "its manifest.json is missing; embed again with --overwrite"
        else:
            why = "no embeddings here"
        raise UsageError(f"{folder}: {why}. An embeddings folder is what `clipline embed` writes") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        what = f"{'.'.join(map(str, error.errors()[0]['loc']))}: {error.errors()[0]['msg']}".lstrip(": ")
        raise UsageError(
            f"{path}: not the manifest of an embeddings folder ({what}). Fix: embed again with --overwrite"
        ) from None
    if manifest.schema_version > SCHEMA_VERSION:
        raise UsageError(f"{folder}: written by a newer clipline (schema {manifest.schema_version}): update")
    return manifest
