"""Where files that can be made again are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from calib_data.errors import ToolchainError

CACHE_VARIABLE = "BERT_TRT_DEPLOY_CACHE"


class CacheNotWritableError(ToolchainError):
    """The cache folder cannot be created or written to."""


def cache_path() -> Path:
    """Where the cache folder is or would be made.

    It is what the environment variable `BERT_TRT_DEPLOY_CACHE` names, or else the place that the
    operating system has for a user's caches.
    """
    import platformdirs

    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_cache_path("bert-trt-deploy")


def cache_folder() -> Path:
    """Return the cache folder, created if need be; see `cache_path`.

    Raises:
        CacheNotWritableError: The folder cannot be created, or files cannot be made in it.
    """
    folder = cache_path()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_writable(folder, error.strerror) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise not_writable(folder, "permission denied")
    return folder


def not_writable(folder: Path, reason: str | None) -> CacheNotWritableError:
    """Make the error for a cache folder that refuses to be written, for the caller to raise."""
    return CacheNotWritableError(
        f"cannot write to the cache folder {folder}: {reason or 'unknown error'}",
        f"set {CACHE_VARIABLE} to a folder you can write to",
    )
