"""How the demo model is trained: one pass over the corpus, from short reviews to long ones."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_data.demo.corpus import LabelledReview, labelled_train_reviews
from calib_data.demo.vocabulary import build_vocabulary
from calib_data.progress import Progress
from calib_data.tasks import get_task

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the trained model is, besides the corpus.

    Attributes:
        layers: Encoder layers.
        hidden: Hidden size; heads are 64 wide and the intermediate size is 4 times this.
        spread: Standard deviation of the initial weights.
        positions: Longest input, in tokens.
        batch: Rows per step.
        epochs: Passes over the corpus.
        learning_rate: Peak of AdamW's learning rate.
        warmup: Fraction of the steps until that peak; from there it falls linearly to zero.
        weight_decay: AdamW's weight decay.
        beta2: AdamW's second decay rate.
        clip: Largest norm of the gradient.
        shuffle: How far a batch may move from its place by length, as a fraction of an epoch.
        reading_layers: How many of the first encoder layers are held against the opinions.
        opinion_weight: Weight of that loss beside the label's.
        score_weight: Weight of the loss that makes the logits differ by the review's score.
        seed: Seeds the weights and the order of the batches.
    """

    layers: int = 4
    hidden: int = 256
    # BERT's 0.02 suits its width of 768; here it would leave attention blurred for most of a minute
    spread: float = 0.04
    positions: int = 128
    batch: int = 32
    epochs: int = 1
    learning_rate: float = 8e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    beta2: float = 0.98
    clip: float = 1.0
    shuffle: float = 0.5
    reading_layers: int = 3
    opinion_weight: float = 1.0
    score_weight: float = 0.3
    seed: int = 0


# Points, value, negation and weight of the opinion at a token; zeros where there is none. Negation
# multiplies, and a product is slow to find by itself: its factors are asked for as well.
_Telling = tuple[float, float, float, float]
_NOTHING: _Telling = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class _Row:
    """One review as numbers: token ids, what each token has to tell, total score, label."""

    ids: tuple[int, ...]
    tells: tuple[_Telling, ...]
    score: float
    label: int


def train_into(folder: Path, recipe: Recipe, progress: Progress) -> None:
    """Train a model and save it as a Hugging Face checkpoint.

    A label alone says too little for a transformer to learn negation from scratch within a
    minute. The grammar knows what each opinion in a review contributes, so a helper layer is
    trained to read that off the encoder at the deciding word; it is thrown away afterwards.

    Args:
        folder: An existing, empty folder, filled with weights (FP32), configuration, tokenizer.
        recipe: Sizes and hyper-parameters.
        progress: Counts the training steps.
    """
    import torch
    from transformers import BertTokenizer

    reviews = labelled_train_reviews()
    vocabulary = build_vocabulary(row.example.texts[0] for row in reviews)
    tokenizer = BertTokenizer(
        vocab={piece: index for index, piece in enumerate(vocabulary)},
        do_lower_case=True,
        model_max_length=recipe.positions,
    )
    rows = _encoded(tokenizer.backend_tokenizer, reviews)
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), _quiet_transformers():
        torch.manual_seed(recipe.seed)
        model = _new_model(recipe, vocabulary)
        _fit(model, rows, recipe, progress)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _encoded(tokenizer: Tokenizer, reviews: Sequence[LabelledReview]) -> list[_Row]:
    encodings = tokenizer.encode_batch([row.example.texts[0] for row in reviews])
    rows = []
    for encoding, labelled in zip(encodings, reviews, strict=True):
        tells = [_NOTHING] * len(encoding.ids)
        for opinion in labelled.review.opinions:
            token = encoding.char_to_token(opinion.offset)
            assert token is not None, "an opinion stands at a word"
            said = opinion.judgement
            tells[token] = (said.points, said.value, -1.0 if said.denied else 1.0, said.weight)
        score, label = labelled.review.score, labelled.example.label
        rows.append(_Row(tuple(encoding.ids), tuple(tells), score, label))
    return rows


def _new_model(recipe: Recipe, vocabulary: Sequence[str]) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    labels = get_task("demo").labels
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.hidden // 64,
        intermediate_size=4 * recipe.hidden,
        max_position_embeddings=recipe.positions,
        # Every row is seen once: there is nothing to memorise that dropout would have to prevent.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=recipe.spread,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    return BertForSequenceClassification(config)


def _batches(rows: Sequence[_Row], recipe: Recipe) -> list[list[_Row]]:
    """Put rows of like length together, roughly from short to long in each epoch.

    Short reviews hold one opinion: they teach the words cheaply before contrasts have to be
    weighed. `sorted` with draws from `random()` alone gives every Python version one order.
    """
    rng = random.Random(recipe.seed)
    batches: list[list[_Row]] = []
    for _ in range(recipe.epochs):
        by_length = sorted(rows, key=lambda row: (len(row.ids), rng.random()))
        chunks = [by_length[at : at + recipe.batch] for at in range(0, len(rows), recipe.batch)]
        places = [at + recipe.shuffle * len(chunks) * rng.random() for at in range(len(chunks))]
        batches += [chunks[at] for at in sorted(range(len(chunks)), key=places.__getitem__)]
    return batches


def _schedule(recipe: Recipe, steps: int) -> Callable[[int], float]:
    warmup = max(1, math.ceil(recipe.warmup * steps))
    return lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def _fit(model: Any, rows: Sequence[_Row], recipe: Recipe, progress: Progress) -> None:
    import torch

    batches = _batches(rows, recipe)
    reader = torch.nn.Linear(recipe.hidden, len(_NOTHING))
    parameters = [*model.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=recipe.learning_rate,
        betas=(0.9, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(recipe, len(batches)))
    model.train()
    for batch in progress.track(batches, "training the demo model", len(batches)):
        loss = _loss(model, reader, batch, recipe)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimizer.step()
        schedule.step()
    model.eval()


def _loss(
    model: Any,
    reader: torch.nn.Linear,
    batch: Sequence[_Row],
    recipe: Recipe,
) -> torch.Tensor:
    """Sum the losses of the labels, of the scores, and of the opinions at their tokens."""
    import torch
    from torch.nn import functional

    length = max(len(row.ids) for row in batch)
    ids = torch.tensor([_padded(row.ids, length) for row in batch])
    mask = torch.tensor([_padded([1] * len(row.ids), length) for row in batch])
    tells = torch.tensor([[*row.tells, *[_NOTHING] * (length - len(row.tells))] for row in batch])
    labels = torch.tensor([row.label for row in batch])
    scores = torch.tensor([row.score for row in batch], dtype=torch.float32)

    output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    states = torch.stack(output.hidden_states[1 : recipe.reading_layers + 1])
    errors = (reader(states) - tells).square().sum(-1) * mask
    # Per opinion rather than per token, or the many zeros between them would outweigh them.
    opinions = errors.sum() / (tells[..., 2] != 0).sum() / len(states)
    margin = output.logits[:, 1] - output.logits[:, 0]
    score = functional.smooth_l1_loss(margin, 2 * scores.clamp(-4, 4))
    label = functional.cross_entropy(output.logits, labels)
    total: torch.Tensor = label + recipe.score_weight * score + recipe.opinion_weight * opinions
    return total


def _padded(values: Sequence[int], length: int) -> list[int]:
    # Zero is the id of [PAD] and the mask of a token that is not there.
    return [*values, *[0] * (length - len(values))]


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep the library's progress bars and warnings off the terminal, then restore its settings."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
