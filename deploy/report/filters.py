"""How templates write what results.json holds, whatever the report's format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from deploy.report.changed import answer
from deploy.report.latency import label, milliseconds, per_second
from deploy.report.numbers import (
    change,
    describe,
    interval,
    magnitude,
    megabytes,
    number,
    percent,
    points,
)

FILTERS: Mapping[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        answer,
        change,
        describe,
        interval,
        label,
        magnitude,
        megabytes,
        milliseconds,
        number,
        per_second,
        percent,
        points,
    )
}
