"""manifest.json of an embeddings folder: what it holds, of which images, by which model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from clipline.embed.paths import to_name
from clipline.errors import UsageError

SCHEMA_VERSION = 1
MANIFEST, ERRORS, PARTS = "manifest.json", "errors.parquet", "part-*.parquet"


class Counts(BaseModel):
    """images = rows + errors; a folder that could not be listed is one error."""

    model_config = ConfigDict(frozen=True)

    images: int
    rows: int
    errors: int
    parts: int


class Manifest(BaseModel):
    """root, model: the folders of the images and of the model, relative to the embeddings folder.

    Relative, so that the three may be moved together; percent-escaped as `path` is.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    schema_version: int = SCHEMA_VERSION
    model_id: str
    variant: str
    dim: int
    dtype: Literal["float16", "float32"]
    counts: Counts
    root: str
    model: str

    def root_folder(self, folder: Path) -> Path:
        """Where the images are, for the embeddings in `folder`."""
        return folder / to_name(self.root)

    def model_folder(self, folder: Path) -> Path:
        """Where the model is, for the embeddings in `folder`."""
        return folder / to_name(self.model)


def read(folder: Path) -> Manifest:
    """The manifest of an embeddings folder. Raises UsageError where `folder` is none, or is not finished."""
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        if not folder.is_dir():
            why = "no such folder"
        elif any(folder.glob(PARTS)):
            why = "its `clipline embed` did not finish; run that again with --overwrite"
        else:
            why = "no embeddings here"
        raise UsageError(f"{folder}: {why}. An embeddings folder is what `clipline embed` writes") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        what = f"{'.'.join(map(str, error.errors()[0]['loc']))}: {error.errors()[0]['msg']}".lstrip(": ")
        raise UsageError(f"{path}: not the manifest of an embeddings folder ({what})") from None
    if manifest.schema_version > SCHEMA_VERSION:
        raise UsageError(f"{folder}: written by a newer clipline (schema {manifest.schema_version}): update")
    return manifest
