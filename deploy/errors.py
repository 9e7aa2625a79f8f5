"""Errors about running and judging a model."""

from __future__ import annotations

from calib_data.errors import ToolchainError


class EvaluationError(ToolchainError):
    """A model's outputs cannot be judged."""


class EngineError(ToolchainError):
    """TensorRT cannot build, load or run an engine."""


class PlanError(EngineError):
    """A plan is damaged, unknown, or of another machine: it is not deserialised."""


class BuildFolderError(ToolchainError):
    """The build folder cannot be written, read or trusted."""


class BackendError(ToolchainError):
    """The backend that should execute a model is not available or refuses the model."""
