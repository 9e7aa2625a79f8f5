"""BERT with random weights and rows of random tokens: for times and memory, where neither matters.

The tokenizer is there because a checkpoint has one. No text goes through it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_data.features import Features
from calib_data.quiet import quiet_transformers
from calib_data.sampler import CalibrationSet, fingerprint

_FIRST_WORD = 1000  # what BERT's vocabulary has below are special tokens and single characters


def save_random_bert(folder: Path, layers: int, hidden: int = 768) -> None:
    """Save a BERT for classification as a Hugging Face checkpoint; 12 layers are BERT-base."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_attention_heads=hidden // 64,
    )
    model = BertForSequenceClassification(config)
    with quiet_transformers():
        model.save_pretrained(folder)
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "word": 2}
    untyped: Any = PreTrainedTokenizerFast
    untyped(
        tokenizer_object=Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]")),
        pad_token="[PAD]",
        unk_token="[UNK]",
    ).save_pretrained(folder)


def random_tokens(samples: int, tokens: int) -> NDArray[np.int64]:
    """Token ids, int64 [samples, tokens]; fewer samples are the first ones of more."""
    return np.random.default_rng(0).integers(_FIRST_WORD, 30_000, (samples, tokens))


def calibration_rows(ids: NDArray[np.int64]) -> CalibrationSet:
    """Rows of token ids, int64 [samples, tokens], as calibration takes them."""
    rows = tuple(ids)
    features = Features(rows, tuple(np.zeros_like(row) for row in rows), np.arange(len(rows)), ())
    return CalibrationSet(features, 0, fingerprint(features))
