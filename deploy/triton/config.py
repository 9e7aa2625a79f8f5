"""What a model repository is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from calib_data.errors import UsageError
from deploy.engine.session import Precision
from deploy.option_values import parse_integer, parse_member, parse_precisions

# A model's name is a folder's name, a part of a URL, and a label of a metric.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ServingBackend(str, Enum):
    """Which backend of the server executes the models.

    There is none for TensorRT for RTX.
    """

    TENSORRT = "tensorrt"
    ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True)
class TritonConfig:
    """A model repository.

    Attributes:
        out: The build folder it is made from.
        repository: Where it goes.
        name: What the models' names start with; None for the task's name.
        precision: Precisions to serve, the first of them by default; None for all that the backend
            can, and the one that the report's verdict names by default.
        backend: What executes them in the server.
        text: Whether to add a model that takes texts.
        max_queue_delay: How long a request may wait for others to share its batch, in µs; None
            derives it from the measured latencies.
    """

    out: Path
    repository: Path
    name: str | None = None
    precision: tuple[Precision, ...] | None = None
    backend: ServingBackend = ServingBackend.TENSORRT
    text: bool = False
    max_queue_delay: int | None = None


def triton_config_from_dict(plain: Mapping[str, Any]) -> TritonConfig:
    """Check options by name, given as the command line spells them; None means not given.

    Raises:
        UsageError: A value outside its range.
    """
    given = {name: value for name, value in plain.items() if value is not None}
    if not str(given.get("repository", "")).strip():
        raise UsageError(
            "--repository is missing", "give the folder that Triton is to read: --repository DIR"
        )
    return TritonConfig(
        out=Path(given["out"]).expanduser(),
        repository=Path(given["repository"]).expanduser(),
        text=bool(given.get("text", False)),
        **{name: parse(given[name]) for name, parse in _PARSERS.items() if name in given},
    )


def parse_name(value: Any) -> str:
    """What models may be called.

    Raises:
        UsageError: They may not be called so.
    """
    name = str(value)
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"no model can be called '{name}'",
            "use --name with letters, digits, points, dashes and underscores",
        )
    return name


_PARSERS: dict[str, Any] = {
    "name": parse_name,
    "precision": parse_precisions,
    "backend": lambda value: parse_member(ServingBackend, "backend", value),
    "max_queue_delay": lambda value: parse_integer("max-queue-delay", value, 0),
}
