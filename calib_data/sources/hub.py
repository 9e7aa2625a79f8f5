"""Data sets of the Hugging Face hub, by the `datasets` library."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http import HTTPStatus
from typing import Any

from calib_data.errors import DataNotFoundError, NetworkError
from calib_data.sources.tables import dataset_table, table_examples
from calib_data.tasks import Examples, HubDataset, Split, Task

_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def read_hub(task: Task, hub: HubDataset, split: Split) -> Examples:
    """Download a split, or take it from the cache of `datasets`.

    Raises:
        DataNotFoundError: The hub has no such data set, configuration or split.
        DataFormatError: The content does not fit the task.
        NetworkError: The hub does not answer.
    """
    dataset = _load(hub, hub.split(split))
    return table_examples(task, dataset_table(dataset), f"hub data set '{hub.path}'")


def _load(hub: HubDataset, split: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    what = f"hub data set '{hub.path}'" + (f", configuration '{hub.config}'" if hub.config else "")
    remedy = "use --data-dir with a local copy"
    silence = _silence(hub)
    try:
        with _without_retry_log(), nullcontext() if silence is None else _from_the_cache():
            return datasets.load_dataset(hub.path, hub.config, split=split)
    except Exception as error:
        if not _is_foreseen(error):
            raise
        # ValueError is how `datasets` reports a configuration or split that is not there; in its
        # cache alone, that says nothing about the hub.
        if silence is None and isinstance(error, (DatasetNotFoundError, ValueError)):
            raise DataNotFoundError(
                f"{what}, split '{split}': {_one_line(error)}", remedy
            ) from error
        wrong = f"{what} could not be downloaded: {_one_line(silence or error)}"
        mend = "log in with `hf auth login`" if _status(error) in _REFUSED else "connect"
        raise NetworkError(wrong, f"{mend}, or {remedy}") from error


def _silence(hub: HubDataset) -> Exception | None:
    """Why the hub cannot be asked for a data set; None where it can.

    It is asked once. The hub client itself tries six times, for over 20 seconds, before it gives
    up.
    """
    import huggingface_hub

    try:
        huggingface_hub.HfApi().dataset_info(hub.path, timeout=10)
    except Exception as error:
        status = _status(error)
        busy = status == HTTPStatus.TOO_MANY_REQUESTS
        if status is None or busy or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return error
        # It answers; what it has to say comes with the download.
    return None


def _is_foreseen(error: Exception) -> bool:
    from datasets.exceptions import DatasetsError

    # The hub's client lets pass what its transport raises: httpx or httpx2, by release.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, (OSError, ValueError, DatasetsError)) or "TransportError" in kinds


def _status(error: Exception) -> int | None:
    """What the hub answered with; None where it did not."""
    from huggingface_hub.errors import HfHubHTTPError

    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


@contextmanager
def _from_the_cache() -> Iterator[None]:
    """Let `datasets` look into its cache alone."""
    import datasets
    import huggingface_hub

    places: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _without_retry_log() -> Iterator[None]:
    """Keep the hub client's warnings of each retry away from the one line that sums them up."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
