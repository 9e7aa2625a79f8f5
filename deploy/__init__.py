"""From a Hugging Face BERT checkpoint to a checked FP8 TensorRT engine, in Python.

    from pathlib import Path
    from deploy import BuildConfig, Precision, Session, build, open_session
    from transformers import AutoTokenizer

    precisions = (Precision.FP8, Precision.INT8)
    config = BuildConfig(model="demo", task="demo", out=Path("out/demo"), precision=precisions)
    print(build(config)["accuracy"]["fp8"]["metrics"])
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
    from deploy.api import build, evaluate, open_session
    from deploy.config import BuildConfig, EngineChoice
    from deploy.engine.session import Backend, Precision, Session
    from deploy.evaluation.config import EvaluateConfig

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
    "EvaluateConfig": "deploy.evaluation.config",
    "Precision": "deploy.engine.session",
    "Session": "deploy.engine.session",
    "ToolchainError": "calib_data.errors",
    "build": "deploy.api",
    "evaluate": "deploy.api",
    "open_session": "deploy.api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'deploy' has no attribute '{name}'")
    # Kept, so that this is asked once for each name.
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
