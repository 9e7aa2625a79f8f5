"""The `config.pbtxt` of each model.

It is written from a template, not through Triton's protobuf classes: those come with a client
library and gRPC, which making a folder of files should not need, and would drop the comments that
tell an operator where a number comes from. The tests parse every file with Triton's own schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.triton.batching import Batching
from deploy.triton.config import ServingBackend
from deploy.triton.encoder import Encoder, TensorSpec

_PLATFORMS = {
    ServingBackend.TENSORRT: "tensorrt_plan",
    ServingBackend.ONNXRUNTIME: "onnxruntime_onnx",
}

# Up to here launching the kernels of a batch takes about as long as running them, so that a CUDA
# graph pays for every batch size.
_LAUNCH_BOUND = 8

# Instances of the text model: while one waits for the encoder, the other tokenizes.
_TEXT_INSTANCES = 2


@dataclass(frozen=True)
class Warmup:
    """A request that the server runs before it calls a model ready.

    Attributes:
        name: Says what it is.
        batch: Rows.
        sequence: Tokens per row.
    """

    name: str
    batch: int
    sequence: int


def warmups(encoder: Encoder, batching: Batching) -> tuple[Warmup, ...]:
    """One request for each bucket and each batch that the server prefers, one row and the largest.

    The last is the largest of all; it leaves valid token ids in every row of the input buffers.
    """
    batches = sorted({1, *batching.preferred, encoder.max_batch})
    return tuple(
        Warmup(f"{bucket} tokens, batch {batch}", batch, bucket)
        for bucket in encoder.buckets
        for batch in batches
    )


def graph_batches(encoder: Encoder, batching: Batching) -> tuple[int, ...]:
    """Batch sizes for which the server captures a CUDA graph in every profile.

    Each small one, where launching dominates, then those that are preferred, and the largest. A
    specification without input shapes takes each profile's own sequence. With shapes it could have
    a lower bound, below which a batch would be padded to the graph's; but Triton tries each one on
    each profile, and logs an error where the sequence is another's.
    """
    small = range(1, min(_LAUNCH_BOUND, encoder.max_batch) + 1)
    return tuple(sorted({*small, *batching.preferred, encoder.max_batch}))


def mask_file(sequence: int) -> str:
    """Name of the file with a warm-up's attention mask, in the model's folder `warmup`.

    Token ids can be zeros, which every vocabulary has; random bytes would point far beyond its end.
    A mask of zeros would leave nothing to attend to.
    """
    return f"attention_mask.{sequence}"


def render_encoder(name: str, encoder: Encoder, batching: Batching) -> str:
    """The configuration of a model that takes token ids."""
    on_tensorrt = encoder.backend is ServingBackend.TENSORRT
    return _render(
        "encoder.pbtxt.j2",
        name=name,
        encoder=encoder,
        platform=_PLATFORMS[encoder.backend],
        batching=batching,
        warmups=warmups(encoder, batching),
        graph_batches=graph_batches(encoder, batching) if on_tensorrt else (),
        mask_file=mask_file,
        parameters=encoder.facts,
    )


def render_text(
    name: str,
    encoder_name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    max_batch: int,
    batching: Batching,
    parameters: Mapping[str, str],
) -> str:
    """The configuration of a model that takes texts."""
    return _render(
        "text.pbtxt.j2",
        name=name,
        encoder_name=encoder_name,
        inputs=inputs,
        outputs=outputs,
        max_batch=max_batch,
        instances=_TEXT_INSTANCES,
        batching=batching,
        parameters=parameters,
    )


def _render(template: str, **values: object) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("deploy.triton", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # a configuration is not HTML; `quoted` is what keeps a text a text
    )
    environment.filters["quoted"] = quoted
    return environment.get_template(template).render(**values)


def quoted(text: str) -> str:
    """A string literal of protobuf's text format."""
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return '"' + "".join(c if c.isprintable() else _octal(c) for c in escaped) + '"'


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8"))
