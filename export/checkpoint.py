"""Load a fine-tuned encoder from a folder or the hub, and refuse what cannot be deployed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_data.labels import are_placeholders
from calib_data.quiet import quiet_transformers
from calib_data.tasks import Head, Task
from export.architectures import Architecture, get_architecture
from export.checkpoint_folder import (
    explained,
    local_folder,
    model_fingerprint,
    tokenizer_fingerprint,
)
from export.errors import CheckpointError, UnsupportedModelError
from export.head import check_head

if TYPE_CHECKING:
    from torch import nn

# These number positions from pad_token_id + 1, so that many positions are never used.
_POSITIONS_FROM_PADDING = frozenset({"roberta", "xlm-roberta", "camembert"})


@dataclass(frozen=True)
class CheckpointInfo:
    """All of a checkpoint but its weights.

    Attributes:
        source: Folder or hub id it came from.
        folder: Where its files are.
        head: What it was loaded for.
        architecture: Its encoder family.
        tokenizer: The checkpoint's fast tokenizer.
        layers: Number of encoder layers.
        heads: Attention heads per layer.
        head_dim: Width of one head.
        max_length: Longest sequence, in tokens, that the position embeddings allow.
        fingerprint: sha256 over the files of the weights, and the configuration.
        tokenizer_fingerprint: sha256 over the files of the tokenizer.
        label_order: Which output is each of the task's labels, by the names in the configuration;
            None where it has none, or the task no classes.
    """

    source: str
    folder: Path
    head: Head
    architecture: Architecture
    tokenizer: Any
    layers: int
    heads: int
    head_dim: int
    max_length: int
    fingerprint: str
    tokenizer_fingerprint: str
    label_order: tuple[int, ...] | None


@dataclass(frozen=True)
class Checkpoint(CheckpointInfo):
    """A model ready to export and calibrate.

    Attributes:
        model: In evaluation mode, FP32, eager attention, attention scale folded into the query
            projection (see `fold_attention_scale`).
    """

    model: nn.Module


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
    return load_weights(read_checkpoint(source, task, allow_pickle=allow_pickle))


def read_checkpoint(source: str, task: Task, *, allow_pickle: bool = False) -> CheckpointInfo:
    """Read and check all of a checkpoint but its weights, of which only the bytes are hashed.

    Args:
        source: As `load_checkpoint` takes it.
        task: As `load_checkpoint` takes it.
        allow_pickle: As `load_checkpoint` takes it.

    Raises:
        CheckpointError: Folder or repository missing, or a file unreadable.
        UnsupportedModelError: Another kind of model, another head, or other labels.
        NetworkError: `source` names a hub repository and the hub cannot be reached.
    """
    folder = local_folder(source, allow_pickle=allow_pickle)
    # Imported once the cheap mistakes are ruled out: it takes seconds.
    from transformers import AutoConfig

    with explained(source):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    architecture = get_architecture(config.model_type)
    label_order = check_head(source, config, task)
    with explained(source):
        tokenizer = _load_tokenizer(folder)
    _check_tokenizer(source, config, tokenizer)
    return CheckpointInfo(
        source=source,
        folder=folder,
        head=task.head,
        architecture=architecture,
        tokenizer=tokenizer,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        max_length=_max_length(config),
        fingerprint=model_fingerprint(folder),
        tokenizer_fingerprint=tokenizer_fingerprint(folder),
        label_order=label_order,
    )


def load_weights(info: CheckpointInfo) -> Checkpoint:
    """Load the model of a checkpoint in FP32 and prepare it for export.

    Raises:
        CheckpointError: Weights are unreadable or incomplete, or have changed since they were
            hashed.
    """
    with explained(info.source):
        model = _load_model(info.folder, info.head)
    if model_fingerprint(info.folder) != info.fingerprint:
        raise CheckpointError(
            f"'{info.source}' was written while it was read", "run the same command again"
        )
    _check_finite(info.source, model)
    fold_attention_scale(model, info.architecture, info.layers)
    facts = {field.name: getattr(info, field.name) for field in fields(CheckpointInfo)}
    return Checkpoint(**facts, model=model)


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
    folder = local_folder(source, allow_pickle=allow_pickle)
    from transformers import AutoConfig

    with explained(source):
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


def _load_model(folder: Path, head: Head) -> nn.Module:
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

    auto = {
        Head.SEQUENCE_CLASSIFICATION: AutoModelForSequenceClassification,
        Head.QUESTION_ANSWERING: AutoModelForQuestionAnswering,
    }[head]
    with quiet_transformers():
        model, info = auto.from_pretrained(
            folder,
            # The checkpoint's own type would make the reference silently FP16.
            dtype=torch.float32,
            attn_implementation="eager",
            # Without any, `local_folder` has let pickle pass.
            use_safetensors=any(folder.glob("*.safetensors")),
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    missing = sorted(info["missing_keys"]) + sorted(info.get("mismatched_keys", ()))
    if missing:
        raise CheckpointError(
            f"the weights of '{folder}' lack {len(missing)} tensors, the first is {missing[0]}",
            "use a checkpoint that was fine-tuned with this head and saved whole",
        )
    loaded: nn.Module = model.eval()
    return loaded


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"'{folder}' has only a slow tokenizer, which gives no character offsets",
            "save it with a tokenizer.json: AutoTokenizer.from_pretrained(...).save_pretrained()",
        )
    return tokenizer


def _max_length(config: Any) -> int:
    positions = int(config.max_position_embeddings)
    if config.model_type in _POSITIONS_FROM_PADDING:
        return positions - int(config.pad_token_id) - 1
    return positions
