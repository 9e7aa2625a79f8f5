"""Small checkpoints with random weights, saved as a user's would be."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

VOCABULARY = 120
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]

_CONFIGS = {
    "bert": BertConfig,
    "roberta": RobertaConfig,
    "xlm-roberta": XLMRobertaConfig,
    "camembert": CamembertConfig,
    "electra": ElectraConfig,
    "distilbert": DistilBertConfig,
}

ARCHITECTURES = tuple(_CONFIGS)


def save_random_checkpoint(
    folder: Path,
    model_type: str = "bert",
    seed: int = 0,
    labels: int = 2,
    question_answering: bool = False,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 2,
    dtype: torch.dtype = torch.float32,
) -> Path:
    config = _config(model_type, labels, layers, hidden, heads)
    auto = (
        AutoModelForQuestionAnswering if question_answering else AutoModelForSequenceClassification
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto.from_config(config)
        randomize(model)
    model.to(dtype).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def randomize(model: torch.nn.Module) -> None:
    """Give every parameter a value of its own, and a few channels that stick out.

    Hugging Face starts every bias at 0 and every LayerNorm weight at 1, so the exporter merges
    them all, and a swapped or dropped one would pass unseen.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
        elif "norm" in name.lower():
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
            with torch.no_grad():
                parameter[:3] *= 6.0
        else:
            torch.nn.init.normal_(parameter, std=0.08)


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = [*_SPECIAL, *(f"w{i}" for i in range(VOCABULARY - len(_SPECIAL)))]
    core = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def _config(model_type: str, labels: int, layers: int, hidden: int, heads: int):
    shared = {"vocab_size": VOCABULARY, "num_labels": labels, "pad_token_id": 0}
    if model_type == "distilbert":
        sizes = {"dim": hidden, "n_layers": layers, "n_heads": heads, "hidden_dim": 4 * hidden}
    else:
        sizes = {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": 4 * hidden,
        }
    if model_type == "electra":
        sizes["embedding_size"] = hidden // 2
    if "roberta" in model_type or model_type == "camembert":
        sizes["type_vocab_size"] = 1  # as the published models have it
    return _CONFIGS[model_type](max_position_embeddings=130, **shared, **sizes)
