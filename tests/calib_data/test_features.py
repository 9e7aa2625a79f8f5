from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from calib_data.errors import TokenizationError
from calib_data.features import tokenize
from calib_data.sources import load_examples
from calib_data.tasks import TASKS, QuestionExample, Split, TextExample

SST2, MRPC, SQUAD = TASKS["sst2"], TASKS["mrpc"], TASKS["squad"]
SHARED = Path(__file__).parents[2] / "../shared"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(40)), "who", "##s"]
CLS, SEP = WORDS.index("[CLS]"), WORDS.index("[SEP]")


def make_tokenizer(
    input_names=("input_ids", "token_type_ids", "attention_mask"), spaces_are_tokens=False
):
    core = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = (
        pre_tokenizers.Split(" ", "isolated")
        if spaces_are_tokens
        else pre_tokenizers.BertPreTokenizer()
    )
    core.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=list(input_names),
    )


def words(rows):
    return [[WORDS[token] for token in row] for row in rows]


def numbered(*span):
    return " ".join(f"w{i}" for i in range(*span))


def test_pair_keeps_both_texts_when_cut():
    example = TextExample("0", (numbered(10), "who"), 1)
    features = tokenize(MRPC, make_tokenizer(), (example,), max_length=8)
    assert words(features.input_ids) == [
        ["[CLS]", "w0", "w1", "w2", "w3", "[SEP]", "who", "[SEP]"],
    ]
    assert features.token_type_ids[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    assert features.offsets == ()


def test_rows_are_not_padded_and_belong_to_their_example():
    # More rows than one tokenizer call takes.
    examples = tuple(TextExample(str(i), (numbered(1 + i % 7),), 0) for i in range(2500))
    features = tokenize(SST2, make_tokenizer(), examples, max_length=128)
    assert features.lengths.tolist() == [3 + i % 7 for i in range(2500)]
    assert features.example_index.tolist() == list(range(2500))


def test_tokenizer_without_segments_gets_zeros():
    tokenizer = make_tokenizer(input_names=("input_ids", "attention_mask"))
    features = tokenize(MRPC, tokenizer, (TextExample("0", ("who", "w1 w2"), 0),), 16)
    assert features.token_type_ids[0].tolist() == [0] * 6


def test_windows_cover_the_context_and_point_into_it():
    long = QuestionExample("a", "  who", "Was w0, " + numbered(1, 30), ("w1",), (8,))
    short = QuestionExample("b", "who", "w5 w6", ("w6",), (3,))
    features = tokenize(SQUAD, make_tokenizer(), (long, short), max_length=15)

    assert features.example_index.tolist() == [0, 0, 0, 0, 0, 1]
    covered = set()
    for row, owner in enumerate(features.example_index):
        context = (long, short)[owner].context
        inside = features.offsets[row][:, 0] >= 0
        assert (features.offsets[row][~inside] == -1).all()
        # "[CLS] who [SEP]" before the context, "[SEP]" after it: the question's offsets are hidden.
        assert inside.tolist() == [False] * 3 + [True] * (len(inside) - 4) + [False]
        for (first, last), token in zip(
            features.offsets[row][inside], features.input_ids[row][inside], strict=True
        ):
            if WORDS[token] != "[UNK]":
                assert context[first:last] == WORDS[token]
            if owner == 0:
                covered.update(range(first, last))
    assert covered == {i for i, c in enumerate(long.context) if c != " "}


def test_question_loses_leading_spaces_only():
    example = QuestionExample("a", "  who w1", "w2 w3", ("w2",), (0,))
    features = tokenize(SQUAD, make_tokenizer(spaces_are_tokens=True), (example,), 16)
    question, context = ["who", "[UNK]", "w1"], ["w2", "[UNK]", "w3"]
    assert words(features.input_ids) == [["[CLS]", *question, "[SEP]", *context, "[SEP]"]]


def test_windows_overlap_by_the_stride():
    example = QuestionExample("a", "who", numbered(40), ("w1",), (3,))
    features = tokenize(SQUAD, make_tokenizer(), (example,), max_length=24)
    first, second = words(features.input_ids[:2])
    assert first[-9:-1] == second[3:11]
    assert first[-10] not in second


@pytest.mark.parametrize("length", [60, 17, 11])
def test_question_without_room_for_its_context_is_named(length):
    example = QuestionExample("q7", "who " * length, numbered(40), ("w1",), (3,))
    with pytest.raises(TokenizationError, match=f"'q7' has {length} tokens"):
        tokenize(SQUAD, make_tokenizer(), (example,), max_length=20)


@pytest.mark.parametrize("room", [17, 60])
def test_a_tokenizer_that_leaves_out_a_context_s_end_is_refused(room):
    """As tokenizers 0.23.1 and 0.23.2 do, with and without a second window."""
    complete = make_tokenizer()

    class StopsEarly(PreTrainedTokenizerFast):
        def __call__(self, text, text_pair=None, **options):
            pair = text_pair and [each[: -len(" w38 w39")] for each in text_pair]
            return complete(text, pair, **options)

    tokenizer = StopsEarly(tokenizer_object=complete.backend_tokenizer)
    example = QuestionExample("q7", "who", numbered(40), ("w1",), (3,))
    with pytest.raises(TokenizationError, match=r"last 8 characters of the context of .*'q7'"):
        tokenize(SQUAD, tokenizer, (example,), room)


@pytest.mark.parametrize(
    ("ending", "last"),
    [(" \u200b\x00 ", "w39"), (" cafe\u0301", "[UNK]")],
    ids=["none", "composed"],
)
def test_a_context_may_end_in_what_has_no_token_of_its_own(ending, last):
    tokenizer = make_tokenizer()
    core = tokenizer.backend_tokenizer
    core.normalizer = normalizers.Sequence([normalizers.NFC(), core.normalizer])
    example = QuestionExample("q7", "who", numbered(40) + ending, ("w1",), (3,))
    for length in (20, 60):
        features = tokenize(SQUAD, tokenizer, (example,), length)
        assert words(features.input_ids)[-1][-2] == last


def test_longest_question_that_fits_still_advances():
    example = QuestionExample("q7", "who " * 10, numbered(40), ("w1",), (3,))
    features = tokenize(SQUAD, make_tokenizer(), (example,), max_length=20)
    assert words(features.input_ids)[-1][-2] == "w39"


def test_a_text_of_100_000_characters_is_cut_or_windowed():
    text = ("w1 w2 w3 " * 11_112)[:100_000]
    for pair in ((text, text), (text, "who"), ("who who", text), (text, "")):
        features = tokenize(MRPC, make_tokenizer(), (TextExample("0", pair, 1),), 128)
        # Nothing after the first 4,000 characters can matter, and so few are not shortened.
        short = tuple(part[:4000] for part in pair)
        expected = tokenize(MRPC, make_tokenizer(), (TextExample("0", short, 1),), 128)
        assert features.lengths.tolist() == [128]
        assert features.input_ids[0].tolist() == expected.input_ids[0].tolist()
    question = QuestionExample("a", "who", text, ("w1",), (0,))
    features = tokenize(SQUAD, make_tokenizer(), (question,), 384)
    assert max(offsets.max() for offsets in features.offsets) >= 99_998
    assert features.lengths.max() == 384


# Some of these many words are long texts, and some of those are shortened ahead.
LENGTHS = (5, 300, 301, 321, 330, 479, 482, 700)


@pytest.mark.parametrize("max_length", [32, 33])
def test_long_pairs_are_cut_as_the_plain_tokenizer_cuts_them(max_length):
    """Where the room for tokens is odd, the longer text has one more, the second of equal ones."""
    tokenizer = make_tokenizer()
    pairs = [(numbered(first), numbered(second)) for first in LENGTHS for second in LENGTHS]
    examples = tuple(TextExample(str(i), pair, 0) for i, pair in enumerate(pairs))
    expected = tokenizer(pairs, truncation="longest_first", max_length=max_length)
    found = tokenize(MRPC, tokenizer, examples, max_length)
    assert [ids.tolist() for ids in found.input_ids] == expected["input_ids"]
    assert [ids.tolist() for ids in found.token_type_ids] == expected["token_type_ids"]


def test_an_empty_text_of_a_pair_has_no_tokens():
    features = tokenize(MRPC, make_tokenizer(), (TextExample("0", ("who", ""), 1),), 16)
    assert words(features.input_ids) == [["[CLS]", "who", "[SEP]", "[SEP]"]]


def test_squad_needs_character_offsets():
    class SlowTokenizer:
        is_fast = False

    example = QuestionExample("a", "who", "w1", ("w1",), (0,))
    with pytest.raises(TokenizationError, match="SlowTokenizer"):
        tokenize(SQUAD, SlowTokenizer(), (example,), 20)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_squad_dev_gives_the_reference_number_of_windows():
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "checkpoints/minilm-squad")
    examples = load_examples(SQUAD, Split.DEV, SHARED / "data")
    features = tokenize(SQUAD, tokenizer, examples, 384)
    assert len(features.input_ids) == 10_784
    assert np.unique(features.example_index).size == 10_570
    assert features.lengths.max() == 384
