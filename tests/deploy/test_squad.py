import re
import string
from pathlib import Path

import numpy as np
import pytest
from torchmetrics.functional.text import squad as torchmetrics_squad

from calib_data.blocks import as_blocks
from calib_data.features import Features, tokenize
from calib_data.progress import SilentProgress
from calib_data.sources import load_examples
from calib_data.tasks import QuestionExample, Split, get_task
from deploy.engine.ort import OrtSession
from deploy.engine.profiles import any_length, bucket_profiles
from deploy.engine.session import Precision
from deploy.evaluation.harness import EvaluationSet, run_rows
from deploy.evaluation.squad import answers, exact_match, f1, normalize_answer
from export.checkpoint import load_checkpoint
from export.onnx_export import export_onnx
from export.onnx_file import write_onnx

SHARED = Path(__file__).parents[2] / "../shared"


def reference_answers(features, examples, all_start, all_end, n_best, max_answer_length):
    """`postprocess_qa_predictions` of transformers' utils_qa.py, less what only writes files."""
    texts = []
    for example_index, example in enumerate(examples):
        prelim = []
        for row in np.flatnonzero(features.example_index == example_index):
            start_logits, end_logits = all_start[row], all_end[row]
            offset_mapping = [tuple(o) if o[0] >= 0 else None for o in features.offsets[row]]
            start_indexes = np.argsort(start_logits)[-1 : -n_best - 1 : -1].tolist()
            end_indexes = np.argsort(end_logits)[-1 : -n_best - 1 : -1].tolist()
            for start_index in start_indexes:
                for end_index in end_indexes:
                    if offset_mapping[start_index] is None or offset_mapping[end_index] is None:
                        continue
                    if end_index < start_index or end_index - start_index + 1 > max_answer_length:
                        continue
                    first, last = offset_mapping[start_index][0], offset_mapping[end_index][1]
                    score = start_logits[start_index] + end_logits[end_index]
                    prelim.append({"offsets": (first, last), "score": score})
        predictions = sorted(prelim, key=lambda x: x["score"], reverse=True)[:n_best]
        for prediction in predictions:
            first, last = prediction["offsets"]
            prediction["text"] = example.context[first:last]
        if not predictions or (len(predictions) == 1 and predictions[0]["text"] == ""):
            predictions.insert(0, {"text": "empty"})
        texts.append(predictions[0]["text"])
    return tuple(texts)


def random_windows(generator, questions=60):
    """Questions of one to three windows whose context tokens are words of a random context."""
    examples, owners, offsets = [], [], []
    for index in range(questions):
        lengths = generator.integers(1, 9, size=80)
        ends = np.cumsum(lengths + 1) - 1
        context = " ".join("abcdefgh"[:length] for length in lengths)
        examples.append(QuestionExample(str(index), "?", context, ("a",), (0,)))
        for window in range(generator.integers(1, 4)):
            span = slice(20 * window, 20 * window + int(generator.integers(1, 41)))
            words = np.stack([ends - lengths, ends], axis=1)[span]
            outside = np.full((int(generator.integers(3, 12)), 2), -1)
            offsets.append(np.concatenate([outside, words, outside[:1]]).astype(np.int32))
            owners.append(index)
    ids = tuple(np.zeros(len(o), dtype=np.int64) for o in offsets)
    return Features(ids, ids, np.array(owners), tuple(offsets)), tuple(examples)


@pytest.mark.parametrize("step", [0.0, 1.0], ids=["distinct", "ties"])
@pytest.mark.parametrize(("n_best", "max_answer_length"), [(20, 30), (3, 2)])
def test_answers_are_those_of_the_reference(step, n_best, max_answer_length):
    generator = np.random.default_rng(n_best)
    features, examples = random_windows(generator)
    logits = [
        [generator.normal(0, 2, size=len(o)).astype(np.float32) for o in features.offsets]
        for _ in range(2)
    ]
    if step:
        logits = [[np.round(row / step) * np.float32(step) for row in side] for side in logits]
    expected = reference_answers(features, examples, *logits, n_best, max_answer_length)
    assert answers(features, examples, *logits, n_best, max_answer_length) == expected
    assert len(set(expected)) > 20


def one_window(offsets, start, end):
    array = np.array(offsets, dtype=np.int32)
    ids = (np.zeros(len(array), dtype=np.int64),)
    features = Features(ids, ids, np.zeros(1, dtype=np.int64), (array,))
    example = QuestionExample("q", "?", "one two", ("one",), (0,))
    arrays = [[np.array(side, dtype=np.float32)] for side in (start, end)]
    return features, (example,), *arrays


def test_no_allowed_pair_is_the_references_placeholder():
    backwards = one_window([(0, 3), (4, 7)], [0, 9], [9, 0])
    assert answers(*backwards, n_best=1) == ("empty",)
    assert reference_answers(*backwards, 1, 30) == ("empty",)


def test_single_pair_without_characters_is_the_references_placeholder():
    hollow = one_window([(-1, -1), (4, 4)], [9, 1], [9, 1])
    assert answers(*hollow) == reference_answers(*hollow, 20, 30) == ("empty",)


def test_best_window_wins():
    offsets = np.array([[0, 3], [4, 7]], dtype=np.int32)
    ids = (np.zeros(2, dtype=np.int64),) * 2
    features = Features(ids, ids, np.zeros(2, dtype=np.int64), (offsets, offsets))
    example = QuestionExample("q", "?", "one two", ("one",), (0,))
    rows = [np.array(row, dtype=np.float32) for row in ([3, 0], [0, 4])]
    assert answers(features, (example,), rows, rows) == ("two",)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Cat's, a HAT!", "cats hat"),
        ("an-other the", "another"),
        ("theatre", "theatre"),
        ("A", ""),
    ],
)
def test_normalization(text, normalized):
    assert normalize_answer(text) == normalized


def test_scores_equal_torchmetrics():
    generator = np.random.default_rng(5)
    words = np.array(["Norman", "the", "Duke", "of", "Rouen,", "1066", "a", "castle."])

    def phrase():
        return "x " + " ".join(generator.choice(words, size=generator.integers(1, 5)))

    predicted, examples, targets = [], [], []
    for index in range(300):
        accepted = tuple(phrase() for _ in range(generator.integers(1, 4)))
        text = accepted[0].lower() if index % 3 == 0 else phrase().removeprefix("x ")
        predicted.append(text)
        examples.append(QuestionExample(str(index), "?", "", accepted, (0,) * len(accepted)))
        targets.append({"id": str(index), "answers": {"text": list(accepted)}})
    expected = torchmetrics_squad(
        [{"id": str(i), "prediction_text": text} for i, text in enumerate(predicted)],
        [{**t, "answers": {**t["answers"], "answer_start": [0]}} for t in targets],
    )
    assert 100 * exact_match(predicted, examples).mean() == pytest.approx(
        float(expected["exact_match"]), abs=1e-4
    )
    assert 100 * f1(predicted, examples).mean() == pytest.approx(float(expected["f1"]), abs=1e-4)
    assert 0.3 < exact_match(predicted, examples).mean() < f1(predicted, examples).mean() < 1


def official_scores(predicted, examples):
    """Exact match and F1 in per cent, written after the description of evaluate-v1.1.py.

    Lower-case, punctuation out, articles out, white space to single spaces, in this order; the best
    score over the accepted answers; the mean over questions.
    """

    def normalized(text):
        kept = [character for character in text.lower() if character not in set(string.punctuation)]
        without = re.sub(r"\b(a|an|the)\b", " ", "".join(kept))
        return " ".join(without.split())

    def overlap(text, answer):
        left, right = normalized(text).split(), normalized(answer).split()
        common = 0
        remaining = list(right)
        for word in left:
            if word in remaining:
                remaining.remove(word)
                common += 1
        if common == 0:
            return 0
        precision, recall = 1.0 * common / len(left), 1.0 * common / len(right)
        return (2 * precision * recall) / (precision + recall)

    exact = total = 0
    for text, example in zip(predicted, examples, strict=True):
        exact += max(normalized(text) == normalized(answer) for answer in example.answers)
        total += max(overlap(text, answer) for answer in example.answers)
    return 100.0 * exact / len(examples), 100.0 * total / len(examples)


_ODD = (
    *(
        "the The THE",
        "a",
        "",
        " ",
        "U.S.",
        "U. S.",
        "half-time",
        "halftime",
        "an\u00a0apple",
        "Apple",
    ),
    *(
        "\u201cquoted\u201d",
        "quoted",
        "na\u00efve",
        "NA\u00cfVE",
        "x the y",
        "xthey",
        "3,000",
        "3000",
    ),
    *("the cat's", "cats", "a-b an-c", "ab anc", "\u0130stanbul", "word word", "word", "the.the"),
)


def test_scores_equal_the_official_scripts():
    generator = np.random.default_rng(11)
    predicted, examples = [], []
    for index in range(2000):
        picked = [" ".join(generator.choice(_ODD, generator.integers(1, 4))) for _ in range(4)]
        accepted = tuple(picked[: generator.integers(1, 4)])
        predicted.append(picked[3] if index % 4 else accepted[-1].upper())
        examples.append(QuestionExample(str(index), "?", "", accepted, (0,) * len(accepted)))
    exact, overlap = official_scores(predicted, examples)
    assert 100 * exact_match(predicted, examples).mean() == pytest.approx(exact, abs=1e-9)
    assert 100 * f1(predicted, examples).mean() == pytest.approx(overlap, abs=1e-9)
    assert 20 < exact < overlap < 90


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_answers_of_a_real_model_are_those_of_the_reference(tmp_path):
    task = get_task("squad")
    checkpoint = load_checkpoint(str(SHARED / "checkpoints/minilm-squad"), task)
    examples = load_examples(task, Split.DEV, SHARED / "data")[::180]
    # Half of the usual length: more questions then have several windows.
    features = tokenize(task, checkpoint.tokenizer, examples, 192)
    assert len(features.input_ids) > 1.2 * len(examples)
    write_onnx(export_onnx(checkpoint, task.head), tmp_path / "fp32.onnx")
    profiles = any_length(bucket_profiles(task.buckets, 16))
    session = OrtSession(tmp_path / "fp32.onnx", Precision.FP32, profiles)
    data = EvaluationSet(task, examples, as_blocks(features), 0)
    outputs = run_rows(session, data, SilentProgress(), "").values
    logits = (outputs["start_logits"], outputs["end_logits"])
    found = answers(features, examples, *logits)
    assert found == reference_answers(features, examples, *logits, 20, 30)
    exact, overlap = official_scores(found, examples)
    assert 100 * exact_match(found, examples).mean() == pytest.approx(exact, abs=1e-9)
    assert 100 * f1(found, examples).mean() == pytest.approx(overlap, abs=1e-9)
    assert overlap > 60  # the checkpoint's F1 is 74.9
    generator = np.random.default_rng(0)
    noise = [
        [generator.normal(0, 3, len(row)).astype(np.float32) for row in side] for side in logits
    ]
    expected = reference_answers(features, examples, *noise, 20, 30)
    assert answers(features, examples, *noise) == expected
