"""Ask a Triton server that serves a repository of `deploy triton`, over HTTP or gRPC.

    pip install 'tritonclient[http,grpc]'

Texts, to the model that `--text` added; a name that is given twice makes a batch of two:

    python triton_client.py demo --input text='a fine meal' --input text='it was cold'
    python triton_client.py squad --protocol grpc \
        --input question='Who wrote it?' --input context='Ada wrote it in 1843.'

Token ids, to an encoder; the bucket is one of the lengths that it was built for:

    python triton_client.py demo-fp8 --ids 2,17,31,3 --bucket 32
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

PORTS = {"http": 8000, "grpc": 8001}


def connect(protocol: str, url: str | None) -> tuple[Any, Any]:
    """The client library of a protocol, and a client of a server.

    Args:
        protocol: "http" or "grpc".
        url: Host and port; None for this machine and the protocol's own port.
    """
    if protocol == "http":
        import tritonclient.http as library
    else:
        import tritonclient.grpc as library
    return library, library.InferenceServerClient(url or f"localhost:{PORTS[protocol]}")


def ask_texts(
    library: Any, client: Any, model: str, texts: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """Send texts, get an answer for each row.

    Args:
        library: Of the client.
        client: Of the server.
        model: Name of a model that takes texts.
        texts: The texts of each input, by the input's name; as many of each.
    """
    inputs = []
    for name, rows in texts.items():
        values = np.array([[text.encode()] for text in rows], dtype=object)
        inputs.append(library.InferInput(name, list(values.shape), "BYTES"))
        inputs[-1].set_data_from_numpy(values)
    return _answers(client, model, client.infer(model, inputs))


def ask_token_ids(
    library: Any, client: Any, model: str, rows: list[list[int]], bucket: int, pad_token_id: int = 0
) -> list[dict[str, Any]]:
    """Send token ids, get the outputs of each row.

    Args:
        library: Of the client.
        client: Of the server.
        model: Name of an encoder.
        rows: Token ids, as long as they are.
        bucket: Tokens to which they are padded: a length that the model was built for. Rows of one
            bucket that follow one another share a batch.
        pad_token_id: What they are padded with; the mask says where.
    """
    arrays = {
        "input_ids": np.full((len(rows), bucket), pad_token_id, dtype=np.int64),
        "attention_mask": np.zeros((len(rows), bucket), dtype=np.int64),
        "token_type_ids": np.zeros((len(rows), bucket), dtype=np.int64),
    }
    for line, ids in enumerate(rows):
        arrays["input_ids"][line, : len(ids)] = ids
        arrays["attention_mask"][line, : len(ids)] = 1
    inputs = []
    for name in (each["name"] for each in _metadata(client, model)["inputs"]):
        inputs.append(library.InferInput(name, [len(rows), bucket], "INT64"))
        inputs[-1].set_data_from_numpy(arrays[name])
    return _answers(client, model, client.infer(model, inputs))


def _answers(client: Any, model: str, result: Any) -> list[dict[str, Any]]:
    names = [each["name"] for each in _metadata(client, model)["outputs"]]
    columns = {name: result.as_numpy(name) for name in names}
    count = len(columns[names[0]])
    return [{name: _plain(columns[name][row]) for name in names} for row in range(count)]


def _plain(values: Any) -> Any:
    decoded = [each.decode() if isinstance(each, bytes) else each for each in values.tolist()]
    return decoded[0] if len(decoded) == 1 else decoded


def _metadata(client: Any, model: str) -> Any:
    # The two clients differ here: HTTP has JSON at once, gRPC where it is asked to.
    over_grpc = type(client).__module__.startswith("tritonclient.grpc")
    return client.get_model_metadata(model, **({"as_json": True} if over_grpc else {}))


def main() -> None:
    """Print one line of JSON for each row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--protocol", choices=tuple(PORTS), default="http")
    parser.add_argument("--url", help="host:port")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=TEXT")
    parser.add_argument("--ids", action="append", default=[], metavar="ID,ID,...")
    parser.add_argument("--bucket", type=int, help="tokens to pad --ids to")
    options = parser.parse_args()
    library, client = connect(options.protocol, options.url)
    if options.ids:
        if options.bucket is None:
            parser.error("--ids needs --bucket")
        rows = [[int(token) for token in row.split(",")] for row in options.ids]
        answers = ask_token_ids(library, client, options.model, rows, options.bucket)
    else:
        texts: dict[str, list[str]] = {}
        for each in options.input:
            name, _, text = each.partition("=")
            texts.setdefault(name, []).append(text)
        answers = ask_texts(library, client, options.model, texts)
    for answer in answers:
        print(json.dumps(answer, ensure_ascii=False))


if __name__ == "__main__":
    main()
