"""Where everything in a build folder lies, and which files in it are a build's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The names of all that a build makes. A user's file may have such a name too, so what the next
# build may remove is what the manifest lists.
_OWN = (
    "calibration.json",
    "results.json",
    "examples.json",
    "report.html",
    "report.md",
    "onnx/model.*.onnx",
    "onnx/model.*.onnx.data",
    "engines/model.*.plan",
    "engines/model.*.plan.json",
    "engines/model.*.layers.json",
    "evaluation/*.journal",
    "tokenizer/*",
)

# How `write_bytes` and `export.onnx_file` name a file that is not yet whole.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")


@dataclass(frozen=True)
class BuildFolder:
    """Where everything in a build lies.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def calibration(self) -> Path:
        """The calibration table."""
        return self.path / "calibration.json"

    @property
    def results(self) -> Path:
        """The results, from which every report is made."""
        return self.path / "results.json"

    @property
    def examples(self) -> Path:
        """The examples that each precision changes; see `deploy.evaluation.examples`."""
        return self.path / "examples.json"

    @property
    def journals(self) -> Path:
        """What models have answered in evaluations; see `deploy.evaluation.journal`."""
        return self.path / "evaluation"

    @property
    def report(self) -> Path:
        """The report in Markdown."""
        return self.path / "report.md"

    @property
    def report_html(self) -> Path:
        """The report as one HTML file."""
        return self.path / "report.html"

    @property
    def manifest(self) -> Path:
        """What the build was asked for, its stages, and the hash of each of its files."""
        return self.path / "manifest.json"

    @property
    def tokenizer(self) -> Path:
        """The checkpoint's tokenizer, so that the folder can be served without the checkpoint."""
        return self.path / "tokenizer"

    def onnx(self, precision: str) -> Path:
        """The ONNX model of a precision."""
        return self.path / "onnx" / f"model.{precision}.onnx"

    def plan(self, precision: str, target: str) -> Path:
        """The engine of a precision for a compute capability."""
        return self.path / "engines" / f"model.{precision}.{target}.plan"

    def plan_info(self, precision: str, target: str) -> Path:
        """What that engine is, beside it."""
        return self.path / "engines" / f"model.{precision}.{target}.plan.json"

    def layers(self, precision: str, target: str) -> Path:
        """The layers of that engine."""
        return self.path / "engines" / f"model.{precision}.{target}.layers.json"

    def name(self, path: Path) -> str:
        """How the manifest calls a file of the folder: its path within it, with slashes."""
        return path.relative_to(self.path).as_posix()


def own_files(folder: BuildFolder) -> list[Path]:
    """The files that have the names of what a build makes; never the manifest."""
    return sorted(
        path
        for pattern in _OWN
        for path in _inside(folder, pattern)
        if not path.name.startswith(".")
    )


def temporary_files(folder: BuildFolder) -> list[Path]:
    """What a killed process had not finished writing."""
    patterns = (*_OWN, folder.name(folder.manifest))
    return [
        path
        for part, slash, name in (pattern.rpartition("/") for pattern in patterns)
        for path in _inside(folder, f"{part}{slash}.{name}.*")
        if _TEMPORARY.fullmatch(path.name)
    ]


def _inside(folder: BuildFolder, pattern: str) -> Iterator[Path]:
    """Files that match, unless a link leads out of the folder to them."""
    root = folder.path.resolve()
    for path in folder.path.glob(pattern):
        if path.is_file() and path.parent.resolve().is_relative_to(root):
            yield path
