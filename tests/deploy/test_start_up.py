"""What a command imports before it works: nothing that takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

COMMANDS = (
    "build",
    "evaluate",
    "bench",
    "tune",
    "inspect",
    "check",
    "report",
    "compare",
    "triton",
    "verify",
    "doctor",
)

# Each takes from a tenth of a second to several, except the last two, of which there is no need.
SLOW = {
    *("torch", "transformers", "modelopt", "onnxruntime", "datasets", "tokenizers", "sklearn"),
    *("scipy", "onnx", "onnx_ir", "tensorrt", "tensorrt_rtx", "matplotlib", "jinja2", "pyarrow"),
    *("huggingface_hub", "safetensors", "pandas", "numpy", "requests", "triton", "cuda"),
}

# What typer draws its help and panels with: a tenth of a second that one line does not need.
PANELS = {"markdown_it", "pygments"}

_BUILD = ("build", "--model", "demo", "--task", "demo", "--out", "never")

# Arguments, and what standard error says of them.
MISTAKES = (
    (("nonsense",), "nonsense"),
    (("--nonsense",), "--nonsense"),
    (("build", "--nonsense"), "--nonsense"),
    (("build", "--max-batch", "many"), "--max-batch"),
    (("build",), "--model is missing"),
    (("build", "--model", "demo", "--task", "nope", "--out", "never"), "unknown task"),
    (("build", "--config", "missing.yaml"), "missing.yaml"),
    ((*_BUILD, "--precision", "fp4"), "fp4"),
    ((*_BUILD, "--buckets", "0"), "--buckets is 0"),
    ((*_BUILD, "--recipe", "missing.yaml"), "missing.yaml"),
    ((*_BUILD, "--max-drop", "2"), "--max-drop"),
    ((*_BUILD, "--seed", str(10**30)), "--seed"),
    (("evaluate", "never", "--precision", "fp4"), "fp4"),
    (("bench", "never", "--batch", "none"), "--batch"),
    (("check", "never.onnx", "--target", "hopper"), "hopper"),
    (("tune", "--model", "demo"), "--task is missing"),
    (("inspect",), "out"),
    (("compare", "never"), "two folders"),
    (("triton", "never"), "--repository is missing"),
)

_SCRIPT = """
import json, sys
sys.argv = ["deploy", *json.loads(sys.argv[1])]
from deploy.cli.main import main
code = 0
try:
    main()
except SystemExit as ended:
    code = ended.code or 0
print("MODULES", json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def run(*arguments: str) -> tuple[int, set[str], str]:
    """Exit code, packages that were imported, and standard error."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    code, modules = json.loads(done.stdout.rpartition("MODULES ")[2])
    return code, set(modules), done.stderr


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), *((name, "--help") for name in COMMANDS)]
)
def test_help_imports_nothing_slow(arguments):
    code, modules, _ = run(*arguments)
    assert code == 0
    assert not modules & SLOW


@pytest.mark.parametrize(
    ("arguments", "said"),
    MISTAKES,
    ids=lambda each: each if isinstance(each, str) else " ".join(each),
)
def test_a_mistake_is_told_without_importing_anything_slow(arguments, said):
    code, modules, error = run(*arguments)
    assert code == 2
    assert said in error
    assert not modules & (SLOW | PANELS)


def test_the_list_of_commands_is_complete():
    from deploy.cli.app import app

    assert {command.name for command in app.registered_commands} == set(COMMANDS)
