"""TensorRT's timing cache, kept from build to build.

It holds how long each kernel took on one GPU under one TensorRT release, so that the next build
times only what is new. TensorRT for RTX has none: it chooses kernels without timing them.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from calib_data.cache import CACHE_VARIABLE, cache_path
from deploy.artifacts import write_bytes
from deploy.errors import BuildFolderError

_LOG = logging.getLogger(__name__)


def timing_cache_path(version: str, gpu: str) -> Path:
    """Where the cache of a TensorRT release on a GPU is kept, in the user's cache folder.

    Args:
        version: Of TensorRT.
        gpu: Its name, as the driver reports it.
    """
    name = f"tensorrt-{version}-{re.sub('[^A-Za-z0-9]+', '-', gpu)}.cache"
    return cache_path() / "timing" / name


def attach_timing_cache(config: Any, path: Path) -> None:
    """Give the builder what earlier builds timed; a file it refuses is worth a warning only.

    Args:
        config: A `trt.IBuilderConfig`.
        path: As `timing_cache_path` has it.
    """
    known = b""
    with suppress(OSError):  # mostly since there is none yet
        known = path.read_bytes()
    cache = config.create_timing_cache(known)
    if known and (cache is None or not config.set_timing_cache(cache, False)):
        _LOG.warning("TensorRT refuses the timing cache '%s': it is made anew", path)
        known = b""
        cache = config.create_timing_cache(known)
    if not known and cache is not None:
        config.set_timing_cache(cache, False)


def keep_timing_cache(config: Any, path: Path) -> None:
    """Write what the builder knows by now, together with what others wrote meanwhile.

    Where that cannot be written, it is worth a warning only: the engine is built by now.

    Args:
        config: The `trt.IBuilderConfig` that was built with.
        path: As `timing_cache_path` has it.
    """
    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        _merge(config, cache, path)
    except (OSError, BuildFolderError) as error:
        _LOG.warning(
            "the timing cache is not kept: %s; set %s to a folder that can be written",
            error.message if isinstance(error, BuildFolderError) else error,
            CACHE_VARIABLE,
        )


def _merge(config: Any, cache: Any, path: Path) -> None:
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.is_file():
            others = config.create_timing_cache(path.read_bytes())
            if others is not None:
                cache.combine(others, False)
        write_bytes(path, bytes(cache.serialize()))
