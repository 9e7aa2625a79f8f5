"""What a hub of the tests has: a small DistilBERT fine-tuned on SST-2, and GLUE for it.

Both are made up. The model has random weights, and the sentences are labelled by the model itself,
so that it is right about every one; those it is unsure of are left out, so that quantizing it turns
no answer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import datasets
import torch
from checkpoints import save_random_checkpoint
from datasets.info import DatasetInfo, DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils.metadata import MetadataConfigs
from datasets.utils.py_utils import asdict
from hub import Repository
from huggingface_hub import DatasetCardData
from transformers import AutoTokenizer, DistilBertForSequenceClassification

_ROWS = {"train": 200, "validation": 120, "test": 40}
_LABELS = ["negative", "positive"]
# As the hub's copy has them where a benchmark keeps its labels secret.
_SECRET = -1


def sst2_repositories(model: str, data: str, scratch: Path) -> tuple[Repository, Repository]:
    """A model and the data set it is right about.

    Args:
        model: Id of the model.
        data: Id of the data set.
        scratch: An empty folder, for files on the way.
    """
    folder = save_random_checkpoint(scratch / "model", "distilbert")
    sentences = _sentences(8 * sum(_ROWS.values()))
    margins = _centre(folder, sentences)
    sure = margins.abs().argsort(descending=True)[: sum(_ROWS.values())].tolist()
    random.Random(0).shuffle(sure)
    rows = [(sentences[i], int(margins[i] > 0)) for i in sure]
    return Repository("model", model, _model_files(folder)), _glue(data, rows)


def _sentences(count: int) -> list[str]:
    draw = random.Random(0)
    return [
        " ".join(f"w{draw.randrange(110)}" for _ in range(draw.randint(2, 24)))
        for _ in range(count)
    ]


def _centre(folder: Path, sentences: list[str]) -> torch.Tensor:
    """Have a model answer half of the sentences with yes; return by how much for each."""
    tokens = AutoTokenizer.from_pretrained(folder)(sentences, padding=True, return_tensors="pt")
    model = DistilBertForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
        margins = logits[:, 1] - logits[:, 0]
        model.classifier.bias[1] -= margins.median()
    model.config.id2label = {0: "NEGATIVE", 1: "POSITIVE"}
    model.config.label2id = {"NEGATIVE": 0, "POSITIVE": 1}
    model.save_pretrained(folder)
    return margins - margins.median()


def _model_files(folder: Path) -> dict[str, bytes]:
    """The files that the hub's DistilBERT has: a vocabulary alone, and weights in many formats."""
    vocabulary = list(json.loads((folder / "tokenizer.json").read_bytes())["model"]["vocab"])
    vocabulary[-1] = "[MASK]"  # which BERT's tokenizer would add, were it not there
    unwanted = ("onnx/model.onnx", "pytorch_model.bin", "rust_model.ot", "tf_model.h5")
    return {
        "README.md": b"---\nlicense: apache-2.0\n---\n",
        "config.json": (folder / "config.json").read_bytes(),
        "model.safetensors": (folder / "model.safetensors").read_bytes(),
        "onnx/config.json": b"{}",
        "tokenizer_config.json": b'{"model_max_length": 512, "do_lower_case": true}',
        "vocab.txt": "".join(f"{word}\n" for word in vocabulary).encode(),
        **dict.fromkeys(unwanted, b"not to be fetched"),
    }


def _glue(id: str, rows: list[tuple[str, int]]) -> Repository:
    sst2: dict[str, datasets.Dataset] = {}
    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=_LABELS),
            "idx": datasets.Value("int32"),
        }
    )
    for split, count in _ROWS.items():
        taken, rows = rows[:count], rows[count:]
        columns = {
            "sentence": [sentence for sentence, _ in taken],
            "label": [_SECRET if split == "test" else label for _, label in taken],
            "idx": range(count),
        }
        sst2[split] = datasets.Dataset.from_dict(columns, features=features)
    # A configuration ahead of the one that is wanted, as the hub's copy has it.
    return _dataset_repository(id, {"ax": {"test": sst2["test"]}, "sst2": sst2})


def _dataset_repository(
    id: str, configs: Mapping[str, Mapping[str, datasets.Dataset]]
) -> Repository:
    """A data set as `push_to_hub` lays it out: Parquet files, and a card that lists them."""
    files: dict[str, bytes] = {}
    described = DatasetInfosDict()
    listed = MetadataConfigs()
    for config, splits in configs.items():
        for split, rows in splits.items():
            parquet = BytesIO()
            rows.to_parquet(parquet)
            files[f"{config}/{split}-00000-of-00001.parquet"] = parquet.getvalue()
        counts = SplitDict(
            {split: SplitInfo(split, num_examples=len(rows)) for split, rows in splits.items()}
        )
        features = next(iter(splits.values())).features
        described[config] = DatasetInfo(config_name=config, features=features, splits=counts)
        paths = [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
        listed[config] = {"data_files": paths}
    card = DatasetCardData()
    described.to_dataset_card_data(card)
    listed.to_dataset_card_data(card)
    files["README.md"] = f"---\n{card}\n---\n".encode()
    return Repository("dataset", id, files, viewed={k: asdict(v) for k, v in described.items()})
