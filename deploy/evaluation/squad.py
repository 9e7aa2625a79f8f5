"""SQuAD v1.1: answers from start and end logits, and the official exact match and F1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calib_data.features import Features
from calib_data.tasks import QuestionExample

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def answers(
    features: Features,
    examples: Sequence[QuestionExample],
    start_logits: Sequence[NDArray[np.float32]],
    end_logits: Sequence[NDArray[np.float32]],
    n_best: int = 20,
    max_answer_length: int = 30,
) -> tuple[str, ...]:
    """Pick the best answer of each question over all its windows.

    Gives the answers of `postprocess_qa_predictions` in Hugging Face's reference (transformers,
    examples/pytorch/question-answering/utils_qa.py): the `n_best` highest starts and ends of a
    window, at most `max_answer_length` tokens apart, both inside the context, by the sum of their
    logits; of equal sums the first one met wins. Defaults are the reference's.

    Args:
        features: The windows, with offsets.
        examples: The questions they were cut from.
        start_logits: float32 [tokens] of each window, without padding.
        end_logits: The same for ends.
        n_best: Starts and ends looked at in each window.
        max_answer_length: Tokens at most in an answer.

    Returns:
        One text for each question; "empty", as in the reference, where no pair is allowed.
    """
    best_score = [-np.inf] * len(examples)
    best_text = ["empty"] * len(examples)
    pairs_seen = [0] * len(examples)
    for row, owner in enumerate(features.example_index.tolist()):
        offsets, start, end = features.offsets[row], start_logits[row], end_logits[row]
        # The reference's own ranking call, so that even equal logits fall in the same order.
        starts = np.argsort(start)[-1 : -n_best - 1 : -1]
        ends = np.argsort(end)[-1 : -n_best - 1 : -1]
        starts = starts[offsets[starts, 0] >= 0]
        ends = ends[offsets[ends, 0] >= 0]
        tokens = ends[None, :] - starts[:, None] + 1
        allowed = (tokens >= 1) & (tokens <= max_answer_length)
        count = int(np.count_nonzero(allowed))
        if count == 0:
            continue
        pairs_seen[owner] += count
        scores = np.where(allowed, start[starts][:, None] + end[ends][None, :], -np.inf)
        i, j = np.unravel_index(np.argmax(scores), scores.shape)
        if scores[i, j] > best_score[owner]:
            best_score[owner] = scores[i, j]
            first, last = int(offsets[starts[i], 0]), int(offsets[ends[j], 1])
            best_text[owner] = examples[owner].context[first:last]
    # The reference also says "empty" where the only allowed pair covers no character.
    return tuple(
        "empty" if count == 1 and not text else text
        for text, count in zip(best_text, pairs_seen, strict=True)
    )


def normalize_answer(text: str) -> str:
    """Lower-case, then drop punctuation, articles and surplus spaces.

    As `normalize_answer` of the official evaluate-v1.1.py (Rajpurkar et al. 2016, SQuAD).
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(
    predicted: Sequence[str], examples: Sequence[QuestionExample]
) -> NDArray[np.float64]:
    """Whether each predicted text equals an accepted answer, both normalized.

    Returns:
        0.0 or 1.0, float64 [questions], as evaluate-v1.1.py counts them.
    """
    return np.array(
        [
            float(normalize_answer(text) in {normalize_answer(a) for a in example.answers})
            for text, example in zip(predicted, examples, strict=True)
        ]
    )


def f1(predicted: Sequence[str], examples: Sequence[QuestionExample]) -> NDArray[np.float64]:
    """F1 between the words of each predicted text and of the accepted answer closest to it.

    Returns:
        0.0 to 1.0, float64 [questions], as evaluate-v1.1.py computes them.
    """
    return np.array(
        [
            max(_word_f1(normalize_answer(text), normalize_answer(a)) for a in example.answers)
            for text, example in zip(predicted, examples, strict=True)
        ]
    )


def _word_f1(predicted: str, accepted: str) -> float:
    predicted_words, accepted_words = predicted.split(), accepted.split()
    shared = sum((Counter(predicted_words) & Counter(accepted_words)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted_words), shared / len(accepted_words)
    return 2 * precision * recall / (precision + recall)
