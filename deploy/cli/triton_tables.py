"""What `deploy triton` ends with, narrow enough for 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.cli.tables import table_of
from deploy.report.numbers import megabytes


def print_repository(written: Mapping[str, Any], console: Console) -> None:
    """Print what was written into a repository, and how to serve it."""
    for part in _parts(written):
        # Names come from files and may look like markup; Text is printed as it stands. A command
        # that is broken into lines could not be copied.
        console.print(Text(part) if isinstance(part, str) else part, soft_wrap=True)


def _parts(written: Mapping[str, Any]) -> Iterator[str | Table]:
    yield f"{written['repository']}, for Triton's {written['backend']} backend"
    yield ""
    yield _models(written)
    first = written["models"][0]
    yield f"in: {_tensors(first['inputs'])}"
    yield f"out: {_tensors(first['outputs'])}"
    for source, models in _by_source(written["models"]).items():
        yield f"batches of {', '.join(models)}: {source}"
    text = written["text"]
    if text is not None:
        yield ""
        yield f"{text['name']} takes texts and asks {text['encoder']}"
        yield f"in: {_tensors(text['inputs'])}"
        yield f"out: {_tensors(text['outputs'])}"
    yield ""
    yield f"default: {written['default']}"
    versions = dict.fromkeys(
        each["tensorrt_version"] for each in written["models"] if "tensorrt_version" in each
    )
    if versions:
        target = f"{first['target']}, {first['gpu']}" if "gpu" in first else first["target"]
        yield f"needs TensorRT {', '.join(versions)} in the server, and {target}"
    yield "serve:"
    yield from (f"  {command}" for command in written["serve"])


def _models(written: Mapping[str, Any]) -> Table:
    table = table_of(
        {
            "model": False,
            "MB": True,
            "tokens": False,
            "max batch": True,
            "preferred": False,
            "delay us": True,
            "graphs": True,
            "warm-ups": True,
        }
    )
    for each in written["models"]:
        buckets = [profile["max"]["sequence"] for profile in each["profiles"]]
        table.add_row(
            each["name"],
            megabytes(each["bytes"]),
            _numbers(buckets),
            str(each["max_batch"]),
            _numbers(each["preferred_batch_size"]) or "none",
            str(each["max_queue_delay_us"]),
            str(len(buckets) * len(each["cuda_graphs"])) if each["cuda_graphs"] else "",
            str(each["warmups"]),
        )
    return table


def _by_source(models: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for each in models:
        grouped.setdefault(each["batching"], []).append(each["name"])
    return grouped


def _tensors(specs: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{each['name']} {each['data_type'].removeprefix('TYPE_')} {each['dims']}" for each in specs
    )


def _numbers(values: Sequence[int]) -> str:
    return ",".join(map(str, values))
