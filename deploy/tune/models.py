"""The many variants of one model that a tuning run opens, one after the other."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from calib_data.progress import Progress
from deploy.engine.ort import OrtSession
from deploy.engine.profiles import Profile
from deploy.engine.session import Precision
from deploy.stages.quantize import write_precision
from deploy.tune.config import TuneConfig
from export.calibration_table import CalibrationTable
from export.recipe import QuantRecipe

T = TypeVar("T")


@dataclass(frozen=True)
class Models:
    """One model in FP32 and under any recipe of one format.

    Attributes:
        config: Of the tuning run.
        fp32: The exported model, in a folder where variants may be written beside it.
        table: Its calibration.
        profiles: Shapes that sessions accept.
        pad_token_id: What they pad with.
    """

    config: TuneConfig
    fp32: Path
    table: CalibrationTable
    profiles: tuple[Profile, ...]
    pad_token_id: int

    def open(self, recipe: QuantRecipe | None) -> OrtSession:
        """A session of the model under a recipe, or in FP32 for None."""
        if recipe is None:
            return OrtSession(self.fp32, Precision.FP32, self.profiles, self.pad_token_id)
        precision = self.config.precision
        path = self.fp32.with_name(f"model.{precision.value}.onnx")
        # Graphs of earlier variants refer to themselves, and hold hundreds of megabytes until the
        # collector comes by, which it times by the number of objects, not by their size.
        gc.collect()
        write_precision(self.fp32, path, recipe, self.table, self.config.build.high_precision)
        return OrtSession(path, precision, self.profiles, self.pad_token_id)


class SharedBar:
    """Progress that counts the batches of many runs on one bar, which then tells the time left."""

    def __init__(self) -> None:
        self._ticks: Iterator[int] = iter(())

    @contextmanager
    def over(self, progress: Progress, description: str, total: int) -> Iterator[None]:
        """Show the bar, for `total` items altogether, until the context closes."""
        with closing(_ticks(progress, description, total)) as self._ticks:
            yield

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Pass `items` on, each a step of the shared bar."""
        for item in items:
            next(self._ticks, None)
            yield item

    def meter(self, description: str) -> AbstractContextManager[Callable[[float], None]]:
        """Do nothing: the bar is enough."""
        return nullcontext(lambda share: None)

    def status(self, description: str) -> AbstractContextManager[None]:
        """Do nothing: the bar is enough."""
        return nullcontext()


def _ticks(progress: Progress, description: str, total: int) -> Generator[int, None, None]:
    yield from progress.track(range(total), description, total)
