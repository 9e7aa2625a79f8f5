"""Load a fine-tuned encoder from a folder or the hub, and refuse what cannot be deployed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_data.errors import NetworkError, ToolchainError
from calib_data.labels import are_placeholders
from calib_data.quiet import quiet_transformers
from calib_data.tasks import Head, Task
from export.architectures import Architecture, get_architecture
from export.config_file import check_config
from export.errors import CheckpointError, UnsupportedModelError
from export.head import check_head

if TYPE_CHECKING:
    from torch import nn

# These number positions from pad_token_id + 1, so that many positions are never used.
_POSITIONS_FROM_PADDING = frozenset({"roberta", "xlm-roberta", "camembert"})

# Weights as pickle can run code on loading, so they are not even fetched.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


@dataclass(frozen=True)
class Checkpoint:
    """A model ready to export and calibrate.

    Attributes:
        source: Folder or hub id it came from.
        architecture: Its encoder family.
        model: In evaluation mode, FP32, eager attention, attention scale folded into the query
            projection (see `fold_attention_scale`).
        tokenizer: The checkpoint's fast tokenizer.
        layers: Number of encoder layers.
        heads: Attention heads per layer.
        head_dim: Width of one head.
        max_length: Longest sequence, in tokens, that the position embeddings allow.
        fingerprint: sha256 over the weights' names, types and bytes, and the configuration.
        label_order: Which output is each of the task's labels, by the names in the configuration;
            None where it has none, or the task no classes.
    """

    source: str
    architecture: Architecture
    model: nn.Module
    tokenizer: Any
    layers: int
    heads: int
    head_dim: int
    max_length: int
    fingerprint: str
    label_order: tuple[int, ...] | None


def load_checkpoint(source: str, task: Task, *, allow_pickle: bool = False) -> Checkpoint:
    """Load a checkpoint in FP32 and prepare it for export.

    Args:
        source: A folder in Hugging Face layout, or the id of a hub repository.
        task: What the model is to be run on; decides the head that it must have.
        allow_pickle: Whether a folder's weights may be pickle where it has no others. Only tensors
            are unpickled; whatever else the file holds is an error.

    Raises:
        CheckpointError: Folder or repository missing, weights missing, unreadable or incomplete.
        UnsupportedModelError: Another kind of model, another head, or other labels.
        NetworkError: `source` names a hub repository and the hub cannot be reached.
    """
    folder = _local_folder(source)
    _check_folder(folder, allow_pickle=allow_pickle)
    # Imported once the cheap mistakes are ruled out: it takes seconds.
    from transformers import AutoConfig

    with _explained(source):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    architecture = get_architecture(config.model_type)
    label_order = check_head(source, config, task)
    with _explained(source):
        model, tokenizer = _load(folder, task)
    _check_finite(source, model)
    _check_tokenizer(source, config, tokenizer)
    fingerprint = _fingerprint(model)
    fold_attention_scale(model, architecture, config.num_hidden_layers)
    return Checkpoint(
        source=source,
        architecture=architecture,
        model=model,
        tokenizer=tokenizer,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        max_length=_max_length(config),
        fingerprint=fingerprint,
        label_order=label_order,
    )


def label_names(source: str, *, allow_pickle: bool = False) -> tuple[str, ...]:
    """Read a classifier's class names, in the order of its outputs, without its weights.

    Args:
        source: As `load_checkpoint` takes it.
        allow_pickle: As `load_checkpoint` takes it.

    Raises:
        CheckpointError: Folder or repository missing, or its configuration unreadable.
        UnsupportedModelError: The configuration only numbers the classes.
        NetworkError: `source` names a hub repository and the hub cannot be reached.
    """
    folder = _local_folder(source)
    _check_folder(folder, allow_pickle=allow_pickle)
    from transformers import AutoConfig

    with _explained(source):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        names = tuple(str(name) for _, name in sorted(config.id2label.items()))
    if are_placeholders(names):
        raise UnsupportedModelError(
            f"'{source}' does not name its labels (id2label: {', '.join(names)}), and neither does "
            "the task",
            "write labels: [...] into the task file, in the order of the model's outputs",
        )
    return names


def fold_attention_scale(model: nn.Module, architecture: Architecture, layers: int) -> None:
    """Multiply the query projections by 1/sqrt(head_dim), in place, and drop the factor after QK^T.

    The result is the same function with the scaling ahead of QK^T: FP16 scores stay small, and
    the quantized q is already in the range that the attention kernel multiplies.
    """
    import torch

    for index in range(layers):
        prefix = architecture.layer.format(index)
        attention: Any = model.get_submodule(f"{prefix}.{architecture.attention}")
        query: Any = model.get_submodule(f"{prefix}.{architecture.query}")
        with torch.no_grad():
            query.weight.mul_(attention.scaling)
            query.bias.mul_(attention.scaling)
        attention.scaling = 1.0


def _local_folder(source: str) -> Path:
    """The folder itself, or the local copy of a hub repository, downloaded where needed."""
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

    with _explained(source):
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
    check_config(folder)


def _check_weights(folder: Path, *, allow_pickle: bool) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt") for path in folder.glob(pattern))
    if "pytorch_model.bin" in pickles and allow_pickle:
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


def _check_finite(source: str, model: nn.Module) -> None:
    import torch

    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"'{source}' has NaN or infinity in its tensor {name}",
                "use a checkpoint of a training that converged, or copy model.safetensors again",
            )


def _check_tokenizer(source: str, config: Any, tokenizer: Any) -> None:
    # Without its files, transformers makes a tokenizer of special tokens alone, which takes every
    # text and turns it into [UNK].
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise CheckpointError(
            f"'{source}' has no vocabulary (tokenizer.json or vocab.txt)",
            "save the tokenizer beside the model: tokenizer.save_pretrained(folder)",
        )
    if tokenizer.pad_token_id is None:
        raise CheckpointError(
            f"the tokenizer of '{source}' has no padding token",
            "set tokenizer.pad_token, and save the tokenizer beside the model",
        )
    if config.model_type in _POSITIONS_FROM_PADDING and (
        config.pad_token_id != tokenizer.pad_token_id
    ):
        raise CheckpointError(
            f"'{source}' counts positions from padding token {config.pad_token_id}, but its "
            f"tokenizer pads with {tokenizer.pad_token_id}",
            "set pad_token_id in config.json to the tokenizer's",
        )
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer of '{source}' has {len(tokenizer)} entries, its model only "
            f"{config.vocab_size}",
            "save the tokenizer that the model was fine-tuned with beside it",
        )


def _load(source: Path, task: Task) -> tuple[nn.Module, Any]:
    import torch
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    auto = {
        Head.SEQUENCE_CLASSIFICATION: AutoModelForSequenceClassification,
        Head.QUESTION_ANSWERING: AutoModelForQuestionAnswering,
    }[task.head]
    with quiet_transformers():
        model, info = auto.from_pretrained(
            source,
            # The checkpoint's own type would make the reference silently FP16.
            dtype=torch.float32,
            attn_implementation="eager",
            # Without any, `_check_weights` has let pickle pass.
            use_safetensors=any(source.glob("*.safetensors")),
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    missing = sorted(info["missing_keys"]) + sorted(info.get("mismatched_keys", ()))
    if missing:
        raise CheckpointError(
            f"the weights of '{source}' lack {len(missing)} tensors, the first is {missing[0]}",
            "use a checkpoint that was fine-tuned with this head and saved whole",
        )
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"'{source}' has only a slow tokenizer, which gives no character offsets",
            "save it with a tokenizer.json: AutoTokenizer.from_pretrained(...).save_pretrained()",
        )
    return model.eval(), tokenizer


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turn whatever the libraries raise about a bad checkpoint into one line and a remedy."""
    try:
        yield
    except ToolchainError:
        raise
    except Exception as error:
        logging.getLogger(__name__).debug("loading %s failed", source, exc_info=True)
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
        if Path(source).is_dir():
            raise CheckpointError(
                f"cannot load '{source}': {type(error).__name__}: {first_line}",
                "check that config.json, tokenizer.json and model.safetensors are whole "
                "and belong together",
            ) from error
        if _is_connection_error(error):
            raise NetworkError(
                f"'{source}' is not a local folder, and the Hugging Face hub cannot be reached",
                "connect to the network, set HF_HUB_CACHE to a folder that has the model, or "
                "give --model a local folder",
            ) from error
        raise CheckpointError(
            f"no folder and no readable hub repository is named '{source}': {first_line}",
            "check the spelling of --model; a private repository needs `hf auth login`",
        ) from error


def _is_connection_error(error: BaseException) -> bool:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    names = {cls.__name__ for link in chain for cls in type(link).__mro__}
    return bool(
        names & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "TimeoutError"}
        or any(isinstance(link, ConnectionError) for link in chain)
        or "couldn't connect" in str(error)
    )


def _max_length(config: Any) -> int:
    positions = int(config.max_position_embeddings)
    if config.model_type in _POSITIONS_FROM_PADDING:
        return positions - int(config.pad_token_id) - 1
    return positions


def _fingerprint(model: Any) -> str:
    digest = hashlib.sha256()
    config = {**model.config.to_dict(), "transformers_version": None, "_name_or_path": None}
    digest.update(repr(sorted(config.items(), key=lambda item: item[0])).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
