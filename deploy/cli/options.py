"""Options that several commands take, each worded once."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from deploy.cli.output import LogLevel
from deploy.engine.session import Backend

# typer reads the annotations of a command at run time, where Python 3.10 knows Optional best.
Text = Optional[str]  # noqa: UP045
Number = Optional[int]  # noqa: UP045

Model = Annotated[
    Text, typer.Option(help="Folder, hub id such as org/name, or demo.", show_default=False)
]
TaskName = Annotated[
    Text,
    typer.Option(
        help="cola, sst2, mrpc, stsb, qqp, mnli, mnli-mm, qnli, rte, wnli, squad, demo, or a task "
        "file (YAML).",
        show_default=False,
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Read tensors out of a pytorch_model.bin where the model has no safetensors.",
    ),
]
DataDir = Annotated[
    Text,
    typer.Option(
        help="Local data, holding glue/ or squad/; docs/tasks.md.", show_default="the hub"
    ),
]
_BACKENDS = ("auto", *(backend.value for backend in Backend))
BackendOption = Annotated[
    Text,
    typer.Option(
        help=f"What runs the models: {', '.join(_BACKENDS[:-1])} or {_BACKENDS[-1]}.",
        show_default="auto",
    ),
]
HighPrecision = Annotated[
    Text,
    typer.Option(
        help="Type of what a quantized engine leaves unquantized: fp16 or bf16.",
        show_default="fp16",
    ),
]
Buckets = Annotated[
    Text,
    typer.Option(
        help="Sequence lengths, one optimization profile each, e.g. 64,128.",
        show_default="the task's",
    ),
]
MaxBatch = Annotated[Number, typer.Option(help="Largest batch of a profile.", show_default="32")]
CalibSamples = Annotated[
    Number, typer.Option(help="Training examples to calibrate on.", show_default="256")
]
Limit = Annotated[
    Number, typer.Option(help="Evaluate only the first N examples.", show_default="all")
]
MaxDrop = Annotated[
    Text,
    typer.Option(
        help="Gate: largest relative drop of the main metric, e.g. 0.01.", show_default="none"
    ),
]
Minimum = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--min",
        metavar="METRIC=VALUE",
        help="Gate: least value of a metric in every precision built, e.g. accuracy=0.9; may be "
        "repeated.",
        show_default=False,
    ),
]
MinAgreement = Annotated[
    Text,
    typer.Option(
        help="Gate: least share of examples answered as fp32 does, e.g. 0.98.",
        show_default="none",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Nothing but errors on standard error.")]
LogLevelOption = Annotated[
    LogLevel, typer.Option(help="Severity from which log records are shown.")
]
LogFile = Annotated[
    Text,
    typer.Option(
        help="Append everything that is logged to this file, from debug up; --quiet does not "
        "change that.",
        show_default="none",
    ),
]
