"""What a session has answered so far, so that an evaluation that was stopped goes on there.

A journal is an append-only file. It begins with the hash of what was run and by what; one record a
batch follows, under the hash of the inputs that were fed. So an answer is only ever taken for the
very batch that it was given to, by the very model and backend: another model, data set, tokenizer,
batch size or version finds nothing.

    8 bytes  magic          32 bytes  SHA-256 of the session's identity
    then, again and again:
    8 bytes  length of the payload, little-endian
    32 bytes SHA-256 of the payload
    payload: 32 bytes SHA-256 of the inputs, 8 bytes seconds (float64), outputs as safetensors
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from calib_data.durable import sync
from deploy.engine.session import Arrays
from deploy.errors import BuildFolderError

_LOG = logging.getLogger(__name__)

_MAGIC = b"evjour\x00\x01"
_RECORD = struct.Struct("<Q32s")
_ANSWER = struct.Struct("<32sd")


@dataclass(frozen=True)
class Answer:
    """What a session gave for a batch.

    Attributes:
        outputs: By name, as `Session.run` returns them.
        seconds: How long it took.
    """

    outputs: Mapping[str, NDArray[Any]]
    seconds: float


class Journal:
    """The answers of one session; a context manager."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Open a journal, and read what it holds.

        Records of another identity are dropped, and so is a record that was not written whole,
        with all that follow it.

        Args:
            path: The file; its folder exists.
            identity: Everything besides the inputs that decides about the outputs; plain data.

        Raises:
            BuildFolderError: The file cannot be read or written.
        """
        self._path = path
        self._answers: dict[bytes, bytes] = {}
        with self._reporting():
            self._file = _open(path)
            content = self._file.read()
            head = _MAGIC + hashlib.sha256(_canonical(identity)).digest()
            good = len(head)
            if content.startswith(head):
                for end, question, answer in _records(content, good):
                    self._answers[question] = answer
                    good = end
            self._file.seek(0)
            if not self._answers:
                self._write(head)
            self._file.truncate(good)
            self._file.seek(good)
        if self._answers:
            _LOG.info("%s: going on after %d batches", path.name, len(self._answers))

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            if error is None:  # whole, so whoever reads on may vouch for it
                with self._reporting():
                    os.fsync(self._file.fileno())
                    sync(self._path.parent)

    def answer(self, inputs: Arrays, run: Callable[[Arrays], Answer]) -> Answer:
        """The answer to a batch: an earlier one, or `run`'s, which is kept.

        Args:
            inputs: What the session is fed.
            run: Feeds it.

        Raises:
            BuildFolderError: The disk is full, or the file cannot be written.
        """
        from safetensors.numpy import load, save

        question = _digest(inputs)
        if question in self._answers:
            known = self._answers[question]
            _, seconds = _ANSWER.unpack_from(known)
            return Answer(load(known[_ANSWER.size :]), seconds)
        answer = run(inputs)
        payload = _ANSWER.pack(question, answer.seconds) + save(
            {name: np.ascontiguousarray(values) for name, values in answer.outputs.items()}
        )
        with self._reporting():
            # One write, unbuffered: a killed process loses at most this record. A machine that
            # loses power may lose more of them; their checksums tell, and a sync for every batch
            # would cost more than the batch.
            self._write(_RECORD.pack(len(payload), hashlib.sha256(payload).digest()) + payload)
        return answer

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        while left:  # an unbuffered file may take a part, on a disk that is nearly full
            left = left[self._file.write(left) :]

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BuildFolderError(
                f"cannot write '{self._path}': {error.strerror or error}",
                "free disk space, or let this user write the build folder",
            ) from error


def _open(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    return os.fdopen(descriptor, "r+b", buffering=0)


def _canonical(identity: Mapping[str, Any]) -> bytes:
    return json.dumps(identity, sort_keys=True).encode("utf-8")


def _records(content: bytes, start: int) -> Iterator[tuple[int, bytes, bytes]]:
    """End, hash of the inputs and payload of each record, up to the first that is not whole."""
    while start + _RECORD.size <= len(content):
        length, checksum = _RECORD.unpack_from(content, start)
        first = start + _RECORD.size
        payload = content[first : first + length]
        if len(payload) < _ANSWER.size or hashlib.sha256(payload).digest() != checksum:
            return
        start = first + length
        yield start, payload[:32], payload


def _digest(inputs: Arrays) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(inputs):
        values = inputs[name]
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.digest()
