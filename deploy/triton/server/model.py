"""Triton's Python backend: takes texts, asks the encoder in the same server, gives answers.

The texts of many requests come together here, where one is as good as another: Triton batches them
whatever their lengths. They are tokenized in one call, sorted into buckets, and each bucket goes to
the encoder as one request. An ensemble could not do that. Its encoder would get the requests one by
one, and Triton closes a batch whenever the next request has another shape, so that traffic of mixed
lengths would run in batches of one or two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from bert_text import Batch, Row, TextTokenizer, collate, decode, make_batches, read_spec
from numpy.typing import NDArray

_FOLDER = Path(__file__).parent


class TritonPythonModel:
    """What Triton makes an instance of; see its Python backend."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the tokenizer."""
        self._spec = read_spec(_FOLDER / "text.json")
        self._tokenize = TextTokenizer(self._spec, _FOLDER / "tokenizer.json")

    async def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests, each of one or more examples.

        Returns:
            A response for each request. What is wrong with one of its texts, or with the batch of
            the encoder that it took part in, is that request's error, and no other's.
        """
        errors: dict[int, Any] = {}
        examples: list[tuple[str, ...]] = []
        spans = []
        for index, request in enumerate(requests):
            first = len(examples)
            try:
                examples += self._examples(request)
            except UnicodeDecodeError as error:
                errors[index] = _invalid(f"a text is not UTF-8: {error}")
            spans.append((first, len(examples)))
        tokenized = self._tokenize(examples)
        rows = tokenized.rows
        batches = make_batches(rows, self._spec.buckets, self._spec.max_batch)
        # All at once: the server copies one batch while it computes another.
        responses = await asyncio.gather(*(self._ask(rows, batch) for batch in batches))
        failed: dict[int, str] = {}
        outputs: list[dict[str, NDArray[Any]]] = [{}] * len(rows)
        for batch, response in zip(batches, responses, strict=True):
            if response.has_error():
                failed |= {rows[i].example: response.error().message() for i in batch.rows}
                continue
            found = {name: _array(response, name) for name in self._spec.outputs}
            for line, row in enumerate(batch.rows):
                outputs[row] = {name: values[line] for name, values in found.items()}
        for index, (first, last) in enumerate(spans):
            for example in range(first, last):
                if example in tokenized.refused:
                    errors[index] = _invalid(tokenized.refused[example])
                elif example in failed:
                    errors[index] = pb_utils.TritonError(f"{self._spec.encoder}: {failed[example]}")
        good = [i for i, row in enumerate(rows) if row.example not in failed]
        answers = decode(self._spec, examples, [rows[i] for i in good], [outputs[i] for i in good])
        return [
            pb_utils.InferenceResponse(output_tensors=[], error=errors[index])
            if index in errors
            else pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, values[first:last]) for name, values in answers.items()]
            )
            for index, (first, last) in enumerate(spans)
        ]

    def _examples(self, request: Any) -> list[tuple[str, ...]]:
        columns = [
            [
                text.decode("utf-8")
                for text in pb_utils.get_input_tensor_by_name(request, name).as_numpy().ravel()
            ]
            for name in self._spec.columns
        ]
        return list(zip(*columns, strict=True))

    def _ask(self, rows: Sequence[Row], batch: Batch) -> Any:
        request = pb_utils.InferenceRequest(
            model_name=self._spec.encoder,
            requested_output_names=list(self._spec.outputs),
            inputs=[
                pb_utils.Tensor(name, values)
                for name, values in collate(self._spec, rows, batch).items()
            ],
            # Outputs on the GPU would have to be copied from it here, and need a library for that.
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        return request.async_exec()


def _array(response: Any, name: str) -> NDArray[Any]:
    values: NDArray[Any] = pb_utils.get_output_tensor_by_name(response, name).as_numpy()
    return values


def _invalid(message: str) -> Any:
    return pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
