"""Token ids kept between runs: the same tokenizer on the same texts gives the same rows."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calib_data.cache import CacheNotWritableError, cache_folder
from calib_data.features import Features, tokenize
from calib_data.tasks import Examples, Head, QuestionExample, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LOG = logging.getLogger(__name__)

# Of the files; part of every key.
_FORMAT = 2


class FeatureCache:
    """Rows by what they were made from, as .npz files in the user's cache folder.

    A file that is damaged is made again. Where the folder cannot be written, nothing is kept.
    """

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        """Prepare for one way of making rows; all but the texts.

        Args:
            task: The task the examples belong to.
            tokenizer: The model's fast tokenizer.
            max_length: Tokens at most in a row; see `tokenize`.
        """
        self._task, self._tokenizer, self._max_length = task, tokenizer, max_length
        self._setting = _setting(task, tokenizer, max_length)

    def rows(self, examples: Examples) -> Features:
        """The rows of these examples: from the cache, or tokenized and put there.

        Raises:
            TokenizationError: As `tokenize`.
        """
        path = self._path(examples)
        if path is not None:
            # Missing, or damaged, which raises whatever zipfile and numpy trip over.
            with suppress(Exception):
                return self._read(path, len(examples))
        features = tokenize(self._task, self._tokenizer, examples, self._max_length)
        if path is not None:
            try:
                _write(path, features)
            except OSError as error:
                _LOG.debug("tokens are not kept: %s", error)
        return features

    def _path(self, examples: Examples) -> Path | None:
        digest = hashlib.sha256(self._setting)
        for example in examples:
            texts = (
                (example.question, example.context)
                if isinstance(example, QuestionExample)
                else example.texts
            )
            for text in texts:
                content = text.encode("utf-8")
                # Without the length, moving a word from one text to the next would go unseen.
                digest.update(len(content).to_bytes(8, "little"))
                digest.update(content)
        try:
            folder = cache_folder() / "features"
            folder.mkdir(exist_ok=True)
        except (CacheNotWritableError, OSError) as error:
            _LOG.debug("tokens are not kept: %s", error)
            return None
        return folder / f"{digest.hexdigest()}.npz"

    def _read(self, path: Path, examples: int) -> Features:
        # zipfile compares the checksum of every array with what was written.
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        lengths, owners = arrays["lengths"], arrays["example_index"]
        total = int(lengths.sum())
        answers = self._task.head is Head.QUESTION_ANSWERING
        expected = {
            "input_ids": (total,),
            "token_type_ids": (total,),
            "example_index": lengths.shape,
            "offsets": (total if answers else 0, 2),
        }
        for name, shape in expected.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} has the shape {arrays[name].shape}, not {shape}")
        if not np.array_equal(np.unique(owners), np.arange(examples)):
            raise ValueError("not every example has a row")
        bounds = np.cumsum(lengths)[:-1]
        return Features(
            input_ids=_rows(arrays["input_ids"].astype(np.int64), bounds),
            token_type_ids=_rows(arrays["token_type_ids"].astype(np.int64), bounds),
            example_index=owners,
            offsets=_rows(arrays["offsets"], bounds) if answers else (),
        )


def _setting(task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int) -> bytes:
    """Everything but the texts that decides about the rows."""
    plain: Any = tokenizer
    core = json.loads(plain.backend_tokenizer.to_str())
    # Set anew by every call, and left behind by the last one.
    core.pop("truncation", None)
    core.pop("padding", None)
    setting = {
        "format": _FORMAT,
        "tokenizer": core,
        "inputs": plain.model_input_names,
        "truncation_side": plain.truncation_side,
        "versions": [version("tokenizers"), version("transformers")],
        "head": task.head.value,
        "doc_stride": task.doc_stride,
        "max_length": max_length,
    }
    return json.dumps(setting, sort_keys=True).encode("utf-8")


def _rows(values: NDArray[Any], bounds: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
    return tuple(np.split(values, bounds)) if len(values) else ()


def _write(path: Path, features: Features) -> None:
    offsets = features.offsets or (np.empty((0, 2), dtype=np.int32),)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file,
                # Vocabularies fit 32 bits with ease.
                input_ids=np.concatenate(features.input_ids).astype(np.int32),
                token_type_ids=np.concatenate(features.token_type_ids).astype(np.int32),
                lengths=features.lengths,
                example_index=features.example_index,
                offsets=np.concatenate(offsets),
            )
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
