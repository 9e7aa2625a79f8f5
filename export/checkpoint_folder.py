"""Where a checkpoint's files are, what they hash to, and what is wrong with them in plain words."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_data.errors import NetworkError, ToolchainError
from calib_data.parsing import NotParsableError, parse_json
from export.architectures import check_supported
from export.config_file import check_config
from export.errors import CheckpointError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

# Weights as pickle can run code on loading, so they are not even fetched.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")

# Read only where there is nothing else, and only where the user allows it.
_PICKLE = "pytorch_model.bin"

_TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
)

_BLOCK = 1 << 20


def local_folder(source: str, *, allow_pickle: bool = False) -> Path:
    """The folder itself, or the local copy of a hub repository, downloaded where needed.

    Args:
        source: A folder, or the id of a hub repository.
        allow_pickle: Whether a folder's weights may be pickle where it has no others.

    Raises:
        CheckpointError: Folder or repository missing, or without what a checkpoint needs.
        UnsupportedModelError: The configuration names another kind of model.
        NetworkError: `source` names a hub repository and the hub cannot be reached.
    """
    folder = _find(source)
    _check_folder(folder, allow_pickle=allow_pickle)
    return folder


def model_fingerprint(folder: Path) -> str:
    """sha256 over the configuration, but for what saved it, and the files of the weights.

    Raises:
        CheckpointError: A file cannot be read.
    """
    path = folder / "config.json"
    try:
        config: dict[str, Any] = dict(parse_json(path.read_bytes()))
    except (OSError, NotParsableError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"cannot read '{path}': {error}", "save the model again with save_pretrained()"
        ) from error
    for name in ("transformers_version", "_name_or_path"):
        config.pop(name, None)
    weights = _WEIGHTS if any(folder.glob("*.safetensors")) else (_PICKLE,)
    return _digest(folder, weights, json.dumps(config, sort_keys=True))


def tokenizer_fingerprint(folder: Path) -> str:
    """sha256 over the files of the tokenizer.

    Raises:
        CheckpointError: A file cannot be read.
    """
    return _digest(folder, _TOKENIZER)


def _digest(folder: Path, patterns: Iterable[str], beside: str = "") -> str:
    digest = hashlib.sha256(beside.encode("utf-8"))
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    for path in sorted(paths):
        content = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    content.update(block)
        except OSError as error:
            raise CheckpointError(
                f"cannot read '{path}': {error.strerror}", "let this user read the model's folder"
            ) from error
        digest.update(f"\n{path.name} {content.hexdigest()}".encode())
    return digest.hexdigest()


def _find(source: str) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    looks_local = folder.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1
    if folder.exists() or looks_local:
        raise CheckpointError(
            f"model folder '{source}' " + ("is a file" if folder.exists() else "does not exist"),
            "give --model an existing folder, a hub id such as org/name, or demo",
        )
    from huggingface_hub import snapshot_download

    with explained(source):
        # One request decides whether the hub answers; from_pretrained() retries for half a minute
        # before it says so. Without an answer, this takes what the cache has.
        folder = Path(snapshot_download(source, allow_patterns=_HUB_FILES, ignore_patterns="*/*"))
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"the hub repository '{source}' has no weights as safetensors",
            "choose one that has; weights as pickle can run code on loading and are not fetched",
        )
    return folder


def _check_folder(folder: Path, *, allow_pickle: bool) -> None:
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"'{folder}' has no config.json, so it is not a Hugging Face checkpoint",
            "give --model the folder that save_pretrained() wrote",
        )
    _check_weights(folder, allow_pickle=allow_pickle)
    check_supported(folder, check_config(folder))


def _check_weights(folder: Path, *, allow_pickle: bool) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt") for path in folder.glob(pattern))
    if _PICKLE in pickles and allow_pickle:
        return
    if pickles:
        raise CheckpointError(
            f"'{folder}' has weights only as pickle ({pickles[0]}), which can run code on loading",
            "load it where you trust it, and save it again with model.save_pretrained(folder); or "
            "give --allow-pickle, which reads the tensors of a pytorch_model.bin and nothing else",
        )
    raise CheckpointError(
        f"'{folder}' has a config.json but no weights (*.safetensors)",
        "copy model.safetensors into it, or save the model again with save_pretrained()",
    )


@contextmanager
def explained(source: str) -> Iterator[None]:
    """Turn whatever the libraries raise about a bad checkpoint into one line and a remedy."""
    try:
        yield
    except ToolchainError:
        raise
    except Exception as error:
        logging.getLogger(__name__).debug("loading %s failed", source, exc_info=True)
        refusal = _unpickling_problem(error)
        if refusal is not None:
            raise CheckpointError(
                f"{_PICKLE} of '{source}' holds more than tensors, or is damaged: {refusal}",
                "load it where you trust it, and save it again with model.save_pretrained(folder), "
                "which writes safetensors",
            ) from error
        if Path(source).is_dir():
            raise CheckpointError(
                f"cannot load '{source}': {type(error).__name__}: {_lines(error, 1)}",
                "check that config.json, tokenizer.json and model.safetensors are whole "
                "and belong together",
            ) from error
        answer = _hub_answer(error)
        status = answer.response.status_code if answer else None
        if _is_silence(status) if status else _is_connection_error(error):
            raise NetworkError(
                f"'{source}' is not a local folder, and the Hugging Face hub cannot be reached"
                + (f" (status {status})" if status else ""),
                "connect to the network, set HF_HUB_CACHE to a folder that has the model, or "
                "give --model a local folder",
            ) from error
        raise CheckpointError(
            # The second line of what the hub's client says tells what the status means here.
            f"no folder and no readable hub repository is named '{source}': "
            + _lines(answer or error, 2),
            "check the spelling of --model; a private or gated repository needs `hf auth login`, "
            "with an account that may read it",
        ) from error


def _lines(error: BaseException, count: int) -> str:
    """The first lines of a message, as one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:count])


def _unpickling_problem(error: BaseException) -> str | None:
    """What torch would not unpickle, without its advice to open the file all the same."""
    # By its name: nothing here imports what it is of.
    refused = next((e for e in _chain(error) if type(e).__name__ == "UnpicklingError"), None)
    if refused is None:
        return None
    advice = ("Weights only load failed", "Please file an issue", "Check the documentation")
    lines = [line.strip() for line in str(refused).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(advice))


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _hub_answer(error: BaseException) -> HfHubHTTPError | None:
    """What the hub refused a request with, which its client may hide behind its cache's lack."""
    from huggingface_hub.errors import HfHubHTTPError

    return next((link for link in _chain(error) if isinstance(link, HfHubHTTPError)), None)


def _is_silence(status: int) -> bool:
    """Whether an answer says nothing but that there is none for now."""
    return status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _is_connection_error(error: BaseException) -> bool:
    chain = _chain(error)
    names = {cls.__name__ for link in chain for cls in type(link).__mro__}
    return bool(
        names
        & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "TransportError", "TimeoutError"}
        or any(isinstance(link, ConnectionError) for link in chain)
        or "couldn't connect" in str(error)
    )
