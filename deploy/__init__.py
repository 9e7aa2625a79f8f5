"""From a Hugging Face BERT checkpoint to a checked FP8 TensorRT engine, in Python.

    from pathlib import Path
    from deploy import BuildConfig, Precision, Session, build, open_session
    from transformers import AutoTokenizer

    config = BuildConfig(model="demo", task="demo", out=Path("out/demo"))
    results = build(config)
    print(results["accuracy"]["fp8"]["metrics"], results["gates"])
    session: Session = open_session(config.out, Precision.FP8)
    tokenizer = AutoTokenizer.from_pretrained(config.out / "tokenizer")
    tokens = tokenizer(["a fine film", "a dull one"], padding=True, return_tensors="np")
    print(session.run(tokens)["logits"])

docs/python-api.md has the rest. The names below are what a release keeps; they are imported when
they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calib_data.errors import ToolchainError
    from deploy.api import build, open_session
    from deploy.config import BuildConfig, EngineChoice
    from deploy.engine.session import Backend, Precision, Session
    from deploy.evaluate.config import EvaluateConfig
    from deploy.evaluate.pipeline import evaluate_folder as evaluate

__all__ = [
    "Backend",
    "BuildConfig",
    "EngineChoice",
    "EvaluateConfig",
    "Precision",
    "Session",
    "ToolchainError",
    "build",
    "evaluate",
    "open_session",
]

_MODULES = {
    "Backend": "deploy.engine.session",
    "BuildConfig": "deploy.config",
    "EngineChoice": "deploy.config",
    "EvaluateConfig": "deploy.evaluate.config",
    "Precision": "deploy.engine.session",
    "Session": "deploy.engine.session",
    "ToolchainError": "calib_data.errors",
    "build": "deploy.api",
    "open_session": "deploy.api",
}


def __getattr__(name: str) -> Any:
    if name == "evaluate":  # the package, which can be called
        return import_module("deploy.evaluate")
    if name not in _MODULES:
        raise AttributeError(f"module 'deploy' has no attribute '{name}'")
    # Kept, so that this is asked once for each name.
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
