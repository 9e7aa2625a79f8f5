"""Evaluation: metrics, paired comparison, gates. Call it: `deploy.evaluate(EvaluateConfig(…))`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calib_data.progress import Progress
    from deploy.evaluate.config import EvaluateConfig


class _CallablePackage(ModuleType):
    """This package, which is also the function `deploy.evaluate`.

    Importing a submodule binds its package to a name in `deploy`, over any function of that name.
    """

    def __call__(self, config: EvaluateConfig, progress: Progress | None = None) -> dict[str, Any]:
        """As `deploy.evaluate.pipeline.evaluate_folder`."""
        from deploy.evaluate.pipeline import evaluate_folder

        return evaluate_folder(config, progress)


sys.modules[__name__].__class__ = _CallablePackage
