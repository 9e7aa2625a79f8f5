"""Export: checkpoint -> FP32 ONNX and tokenizer."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.artifacts import BuildFolder, make_folder, write_bytes
from deploy.engine.session import Precision
from deploy.inputs import BuildInputs
from deploy.stages.keys import stage_key, versions_of
from deploy.stages.run import Made, Stage
from export.checkpoint import Checkpoint
from export.onnx_export import export_onnx
from export.onnx_file import check_onnx, model_files, write_onnx
from export.verify import verify_export

EXPORT = "export"

# What `save_pretrained` may write beside a tokenizer's vocabulary.
_BESIDE_VOCABULARY = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def export_stage(
    folder: BuildFolder, inputs: BuildInputs, weights: Callable[[], Checkpoint]
) -> Stage:
    """The FP32 model, held against the torch model, and the tokenizer beside it."""
    info = inputs.checkpoint
    path = folder.onnx(Precision.FP32.value)

    def work() -> Made:
        checkpoint = weights()
        write_onnx(export_onnx(checkpoint, info.head), path)
        check_onnx(path)
        tokenizer = _save_tokenizer(checkpoint, folder)
        error = verify_export(checkpoint, path, info.head)
        return Made([*model_files(path), *tokenizer], {"relative_error": error})

    return Stage(
        name=EXPORT,
        key=stage_key(
            EXPORT,
            model=info.fingerprint,
            tokenizer=info.tokenizer_fingerprint,
            head=info.head.value,
            versions=versions_of("torch", "transformers", "onnx", "onnx-ir", "onnxscript"),
        ),
        work=work,
        prepare=weights,
        doing="Exporting to ONNX",
    )


def tokenizer_names(tokenizer: Any) -> set[str]:
    """Names of the files that a tokenizer may be saved as."""
    return {*tokenizer.vocab_files_names.values(), *_BESIDE_VOCABULARY}


def _save_tokenizer(checkpoint: Checkpoint, folder: BuildFolder) -> list[Path]:
    tokenizer = copy.deepcopy(checkpoint.tokenizer)
    if tokenizer.is_fast:
        # It keeps at which length it cut last, which is no property of the checkpoint.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    # File by file: the folder may hold something of the user's, and only whole files appear.
    with tempfile.TemporaryDirectory() as staging:
        tokenizer.save_pretrained(staging)
        make_folder(folder.tokenizer)
        written = []
        for file in sorted(Path(staging).rglob("*")):
            if file.is_file():
                written.append(folder.tokenizer / file.name)
                write_bytes(written[-1], file.read_bytes())
    return written
