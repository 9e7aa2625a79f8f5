"""Errors of reading a checkpoint, exporting it and quantizing it."""

from __future__ import annotations

from calib_data.errors import ToolchainError


class CheckpointError(ToolchainError):
    """The checkpoint is missing, incomplete or not loadable."""


class UnsupportedModelError(ToolchainError):
    """The checkpoint is whole, but not of a kind or head that this toolchain quantizes."""


class ExportError(ToolchainError):
    """The exported graph is not what the toolchain's later stages rely on."""


class SiteError(ToolchainError):
    """A quantizable site cannot be tied to the graph or to the model."""


class CalibrationError(ToolchainError):
    """Calibration data or a calibration table cannot give a usable amax."""


class RecipeError(ToolchainError):
    """A quantization recipe contradicts itself, the model or what an engine can run."""

    exit_code = 2


class PrecisionError(ToolchainError):
    """A tensor does not fit the floating-point type it would be carried in."""
