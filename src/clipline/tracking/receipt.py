"""models/run.json: the MLflow run of the trained model, and what is needed to create that run again."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clipline.errors import UsageError
from clipline.utils import checksums


class DatasetInfo(BaseModel):
    """The training data, as MLflow shows datasets. digest: its fingerprint. profile: counts of each split."""

    model_config = ConfigDict(frozen=True, strict=True)

    name: str
    digest: str
    source: str
    profile: dict[str, dict[str, int]]


class Receipt(BaseModel):
    """The contents of models/run.json. started: when the run was created, in milliseconds since 1970.

    The store's address is left out on purpose: the file is shared between machines.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    run_id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,256}$")
    experiment: str = "clipline"
    name: str
    started: int
    params: dict[str, str]
    tags: dict[str, str]
    dataset: DatasetInfo | None = None

    def write(self, path: Path) -> None:
        """Write atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        checksums.write_with_checksum(path, self)

    @classmethod
    def read(cls, path: Path) -> Receipt:
        """Read the file. Raises UsageError where it does not exist or is damaged."""
        try:
            return cls.model_validate(checksums.read_verified(path, required=False))
        except FileNotFoundError:
            raise UsageError(f"{path}: no such file. The train stage writes it: dvc repro train") from None
        except (ValueError, TypeError, RecursionError) as error:
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise UsageError(f"{path}: damaged ({problem}). Fix: dvc checkout {path}") from None
