"""Open a Hugging Face dataset: a local folder in a layout that `datasets` reads, or an id on the hub.

`datasets` retries for half a minute if the hub cannot be reached; one question beforehand fails within seconds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clipline.config.base import resolve
from clipline.config.dataset import Hub
from clipline.errors import CliplineError, UsageError, first_few, first_line, missing_extra, shorten

if TYPE_CHECKING:
    from datasets import Dataset

TIMEOUT_SECONDS = 5.0
_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class Opened(NamedTuple):
    """An opened dataset.

    revision: its commit on the hub, None for a local folder. roots: the only folders in which its image files may be.
    """

    table: Dataset
    revision: str | None
    roots: list[Path]


def open_hub(dataset: Hub, cache: Path) -> Opened:
    """Load the dataset. Raises UsageError or CliplineError; within seconds if the hub cannot be reached."""
    try:
        import datasets
        import huggingface_hub
    except ImportError:
        raise missing_extra("datasets", "pipeline") from None
    folder, split = resolve(dataset.path), dataset.source.hub_split
    http_error = huggingface_hub.errors.HTTPError
    try:
        if folder.is_dir():
            # The copy of the tables that `datasets` makes is scratch: it is removed when the download is done.
            scratch = cache / "datasets"
            return Opened(_local(folder, split, scratch), None, [folder, scratch])
        revision = _find_revision(dataset)
        table = datasets.load_dataset(dataset.path, split=split, revision=revision or dataset.source.revision)
        downloads = datasets.config.DOWNLOADED_DATASETS_PATH, datasets.config.HF_DATASETS_CACHE
        return Opened(table, revision, [*map(Path, downloads), Path(huggingface_hub.constants.HF_HUB_CACHE)])
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError, http_error) as error:
        offline = " (the hub cannot be reached)" if datasets.config.HF_HUB_OFFLINE else ""
        raise CliplineError(
            f"{dataset.path}: cannot be loaded{offline}: {first_line(error.__cause__ or error)}"
        ) from None


def _local(folder: Path, split: str, scratch: Path) -> Dataset:
    import datasets

    if (folder / "state.json").is_file():
        return datasets.load_from_disk(str(folder))
    if not (folder / "dataset_dict.json").is_file():
        return datasets.load_dataset(str(folder), split=split, cache_dir=str(scratch))
    splits = datasets.load_from_disk(str(folder))
    if split not in splits:
        raise UsageError(f"{folder}: no split `{shorten(split)}`; it has: {first_few(list(splits), 20)}")
    return splits[split]


def _find_revision(dataset: Hub) -> str | None:
    """The dataset's commit on the hub; None if the hub does not answer, so that only the local cache can have it."""
    import datasets
    from huggingface_hub import HfApi, errors

    path, wanted = dataset.path, dataset.source.revision
    if not _ID.fullmatch(path):
        raise UsageError(f"{path}: no such folder, and no Hugging Face dataset id (owner/name)")
    if datasets.config.HF_HUB_OFFLINE:
        return None
    try:
        return HfApi().dataset_info(path, revision=wanted, timeout=TIMEOUT_SECONDS).sha
    except errors.GatedRepoError:
        raise CliplineError(f"{path}: restricted. Fix: ask for access on the hub, then `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise UsageError(f"{path}: the hub has no revision `{wanted}` of it") from None
    except errors.RepositoryNotFoundError:
        raise UsageError(f"{path}: no such folder, and no dataset of that name on the hub that you may read") from None
    except errors.HfHubHTTPError as error:
        raise CliplineError(f"{path}: the hub refuses access: {first_line(error)}") from None
    except errors.HTTPError:
        # Not reachable. Offline mode avoids retries; an earlier download may still be in the local cache.
        datasets.config.HF_HUB_OFFLINE = True
        return None
