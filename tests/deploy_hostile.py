"""What every test of mutated inputs does with one: put it in place, use it, judge the end.

By default a test takes a few dozen files, the same in every run. `HYPOTHESIS_PROFILE=hostile` takes
many more, at random: `HYPOTHESIS_PROFILE=hostile make test`. A file that fails is printed as its
seed, which makes the same file again.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calib_data.errors import ToolchainError

_MANY = os.environ.get("HYPOTHESIS_PROFILE") == "hostile"
_LIMIT = timedelta(seconds=30)
_MEMORY = 4 << 30

Mutate = Callable[[bytes, Random], bytes]


def mutated(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test with so many seeds; it fails where one of them takes 30 seconds."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        configured = settings(
            max_examples=30 * examples if _MANY else examples,
            derandomize=not _MANY,
            database=None,
            deadline=_LIMIT,
            # The files of a folder are put back before each use.
            suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        )
        return configured(given(seed=st.integers(0, 2**32 - 1))(test))

    return decorate


@contextmanager
def replaced(path: Path, mutate: Mutate, seed: int) -> Iterator[None]:
    """A file's place taken by something bad; the file is back afterwards."""
    choose, good = Random(seed), path.read_bytes()
    path.unlink()
    kind = choose.randrange(40)
    try:
        if kind == 0:
            path.mkdir()
        elif kind == 1:
            path.symlink_to(path.with_name("nowhere"))
        else:
            path.write_bytes(mutate(good, choose))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        yield
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        assert grown < _MEMORY, f"it took {grown:,} bytes"
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.write_bytes(good)


def ends_well(use: Callable[[], Any]) -> None:
    """Use an input in this process: it works, or it is refused with words and a remedy."""
    # Anything else than a refusal passes through, and fails the test.
    with suppress(ToolchainError):
        use()
