"""How the demo model is trained: from scratch, on labels alone, in under a minute."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_data.demo.corpus import train_examples
from calib_data.demo.vocabulary import build_vocabulary
from calib_data.progress import Progress
from calib_data.quiet import quiet_transformers
from calib_data.tasks import get_task

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the trained model is, besides the corpus.

    Attributes:
        layers: Encoder layers.
        hidden: Hidden size; heads are 64 wide.
        intermediate: Width of the feed-forward layer.
        spread: Standard deviation of the initial weights.
        positions: Longest input, in tokens.
        batch: Rows per step.
        epochs: Passes over the corpus.
        learning_rate: Peak of AdamW's learning rate.
        warmup: Fraction of the steps until that peak; from there it falls linearly to zero.
        weight_decay: AdamW's weight decay.
        beta2: AdamW's second decay rate.
        clip: Largest norm of the gradient.
        seed: Seeds the weights and the order of the batches.
    """

    layers: int = 4
    hidden: int = 256
    intermediate: int = 512
    # Wider than BERT's 0.02, as the layers are a third of its width.
    spread: float = 0.04
    positions: int = 128
    batch: int = 32
    epochs: int = 2
    learning_rate: float = 6e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    beta2: float = 0.98
    clip: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class _Row:
    """One review as numbers."""

    ids: tuple[int, ...]
    label: int


def train_into(folder: Path, recipe: Recipe, progress: Progress) -> None:
    """Train a model and save it as a Hugging Face checkpoint.

    Args:
        folder: An existing, empty folder, filled with weights (FP32), configuration, tokenizer.
        recipe: Sizes and hyper-parameters.
        progress: Counts the training steps.
    """
    import torch
    from transformers import BertTokenizer

    examples = train_examples()
    vocabulary = build_vocabulary(example.texts[0] for example in examples)
    tokenizer = BertTokenizer(
        vocab={piece: index for index, piece in enumerate(vocabulary)},
        do_lower_case=True,
        model_max_length=recipe.positions,
    )
    encodings = tokenizer.backend_tokenizer.encode_batch([e.texts[0] for e in examples])
    rows = [
        _Row(tuple(encoding.ids), int(example.label))
        for encoding, example in zip(encodings, examples, strict=True)
    ]
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), quiet_transformers():
        torch.manual_seed(recipe.seed)
        model = _new_model(recipe, len(vocabulary))
        _fit(model, rows, recipe, progress)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _new_model(recipe: Recipe, vocabulary_size: int) -> Any:
    import transformers

    library: Any = transformers  # its classes are untyped in some releases
    labels = get_task("demo").labels
    config = library.BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.hidden // 64,
        intermediate_size=recipe.intermediate,
        max_position_embeddings=recipe.positions,
        # Two passes leave nothing to memorise that dropout would have to prevent.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=recipe.spread,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    return library.BertForSequenceClassification(config)


def _batches(rows: Sequence[_Row], recipe: Recipe) -> list[list[_Row]]:
    """Put rows of like length together, the batches in random order.

    `sorted` with draws from `random()` alone gives every Python version one order.
    """
    rng = random.Random(recipe.seed)
    batches: list[list[_Row]] = []
    for _ in range(recipe.epochs):
        by_length = sorted(rows, key=lambda row: (len(row.ids), rng.random()))
        chunks = [by_length[at : at + recipe.batch] for at in range(0, len(rows), recipe.batch)]
        batches += sorted(chunks, key=lambda _: rng.random())
    return batches


def _schedule(recipe: Recipe, steps: int) -> Callable[[int], float]:
    warmup = max(1, math.ceil(recipe.warmup * steps))
    return lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def _fit(model: Any, rows: Sequence[_Row], recipe: Recipe, progress: Progress) -> None:
    import torch

    batches = _batches(rows, recipe)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(recipe, len(batches)))
    model.train()
    for batch in progress.track(batches, "Training the demo model", len(batches)):
        loss = _loss(model, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        schedule.step()
    model.eval()


def _loss(model: Any, batch: Sequence[_Row]) -> torch.Tensor:
    import torch

    length = max(len(row.ids) for row in batch)
    ids = torch.tensor([_padded(row.ids, length) for row in batch])
    mask = torch.tensor([_padded([1] * len(row.ids), length) for row in batch])
    labels = torch.tensor([row.label for row in batch])
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss


def _padded(values: Sequence[int], length: int) -> list[int]:
    # Zero is the id of [PAD] and the mask of a token that is not there.
    return [*values, *[0] * (length - len(values))]
