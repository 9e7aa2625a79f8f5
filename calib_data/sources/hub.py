"""Data sets of the Hugging Face hub, by the `datasets` library."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from calib_data.errors import DataNotFoundError, NetworkError
from calib_data.sources.tables import dataset_table, table_examples
from calib_data.tasks import Examples, HubDataset, Split, Task


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
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    what = f"hub data set '{hub.path}'" + (f", configuration '{hub.config}'" if hub.config else "")
    remedy = "use --data-dir with a local copy"
    try:
        with _without_retry_log(), _without_retries(hub):
            return datasets.load_dataset(hub.path, hub.config, split=split)
    # ValueError is how `datasets` reports a configuration or split that is not there.
    except (DatasetNotFoundError, ValueError) as error:
        raise DataNotFoundError(f"{what}, split '{split}': {_one_line(error)}", remedy) from error
    except (OSError, DatasetsError) as error:
        raise NetworkError(
            f"{what} could not be downloaded: {_one_line(error)}", f"connect, or {remedy}"
        ) from error


@contextmanager
def _without_retries(hub: HubDataset) -> Iterator[None]:
    """Ask the hub once; where it does not answer, let `datasets` look into its cache alone.

    The hub client itself tries six times, for over 20 seconds, before it gives up.
    """
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        huggingface_hub.HfApi().dataset_info(hub.path, timeout=10)
        reachable = True
    except HfHubHTTPError:
        reachable = True  # it answers; what it has to say comes with the download
    except Exception:  # the client's transport errors have no common base that it exports
        reachable = False
    places: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        if not reachable:
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
