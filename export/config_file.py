"""A checkpoint's config.json, looked at before anything builds a model from it.

`transformers` allocates what the file asks for, and only then finds that the weights are smaller: a
layer count with two digits too many keeps it busy for hours, a width with two takes all memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from calib_data.parsing import NotParsableError, parse_json
from export.errors import CheckpointError

_WIDTHS = ("hidden_size", "dim")
_HEADS = ("num_attention_heads", "n_heads")

# Each is a dimension of a weight whose other one is the width, at least as a count of bytes.
_SIZES = (
    "num_hidden_layers",
    "n_layers",
    "vocab_size",
    "intermediate_size",
    "hidden_dim",
    "max_position_embeddings",
    "type_vocab_size",
    "num_labels",
)


def check_config(folder: Path) -> dict[str, Any]:
    """Refuse a config.json that no model of the folder's weights can have.

    Returns:
        Its content.

    Raises:
        CheckpointError: It is not a JSON object, or promises more than the weight files hold.
    """
    path = folder / "config.json"
    try:
        plain = parse_json(path.read_bytes())
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror}")
    except NotParsableError as error:
        _refuse(path, f"is not JSON: {error}" + (f" (line {error.line})" if error.line else ""))
    if not isinstance(plain, dict):
        _refuse(path, "is no object of settings")
    names = plain.get("architectures")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        _refuse(path, f"has architectures {names!r:.60}, not a list of names")
    _check_sizes(path, plain, _weight_bytes(folder))
    return plain


def _check_sizes(path: Path, plain: Mapping[str, Any], available: int) -> None:
    width = next((_size(path, plain, name) for name in _WIDTHS if name in plain), 1)
    if width * width > available:
        _refuse_promise(path, f"a width of {width}", available)
    for name in _SIZES:
        if name in plain and _size(path, plain, name) * width > available:
            _refuse_promise(path, f"{name} {plain[name]} with a width of {width}", available)
    for name in _HEADS:
        if name in plain and _size(path, plain, name) > width:
            _refuse(path, f"asks for {plain[name]} attention heads in a width of {width}")


def _size(path: Path, plain: Mapping[str, Any], name: str) -> int:
    value = plain[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        _refuse(path, f"has {name} {value!r:.60}, not a whole number from 1")
    return value


def _weight_bytes(folder: Path) -> int:
    files = [path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern)]
    return sum(path.stat().st_size for path in files if path.is_file())


def _refuse(path: Path, problem: str) -> NoReturn:
    raise CheckpointError(
        f"'{path}' {problem}", "restore the config.json that save_pretrained() wrote"
    )


def _refuse_promise(path: Path, promise: str, available: int) -> NoReturn:
    raise CheckpointError(
        f"'{path}' asks for {promise}; its weights have {available:,} bytes in all",
        "check that config.json and model.safetensors are whole and belong together",
    )
