import json

import numpy as np
import pytest

from calib_data.tasks import QuestionExample, TextExample, get_task
from deploy.evaluation.compare import compare
from deploy.evaluation.examples import KEPT, changed_examples, changed_to_dict
from deploy.evaluation.predictions import AnswerPredictions, ClassPredictions, ValuePredictions


def classes(*logits):
    return ClassPredictions(np.array(logits, dtype=np.float32))


def sentences(*labels):
    return tuple(TextExample(f"id{i}", (f"text {i}",), label) for i, label in enumerate(labels))


def test_lost_examples_come_first_and_read_as_the_task_words_them():
    examples = sentences(1, 0, 1, 1)
    fp32 = classes((2, 1), (1, 3), (0, 0.5), (0, 4))  # wrong, wrong, right, right
    fp8 = classes((1, 1.25), (1, 2), (0.25, 0), (0, 3))  # gained, same, lost, same
    task = get_task("sst2")
    changed = changed_examples(task, examples, fp32, fp8)
    assert changed.total == compare(task, examples, fp32, fp8).changed == 2
    assert changed_to_dict(changed, "onnxruntime", 20) == {
        "backend": "onnxruntime",
        "total": 2,
        "examples": [
            {
                "id": "id2",
                "texts": {"sentence": "text 2"},
                "expected": "positive",
                "fp32": "positive",
                "answer": "negative",
                "outcome": "lost",
                "fp32_margin": 0.5,
                "margin": 0.25,
            },
            {
                "id": "id0",
                "texts": {"sentence": "text 0"},
                "expected": "positive",
                "fp32": "negative",
                "answer": "positive",
                "outcome": "gained",
                "fp32_margin": 1.0,
                "margin": 0.25,
            },
        ],
    }


def test_numbers_have_no_margin():
    task = get_task("stsb")
    examples = tuple(
        TextExample(str(i), ("a", "b"), label) for i, label in enumerate((0.0, 5.0, 2.5))
    )
    fp32 = ValuePredictions(np.array([0.5, 4.0, 2.5], dtype=np.float32))
    fp8 = ValuePredictions(np.array([0.6, 3.0, 2.0], dtype=np.float32))
    changed = changed_to_dict(changed_examples(task, examples, fp32, fp8), "torch", 20)
    assert changed["total"] == 2  # 0.1 of a span of 5 is no change
    first = changed["examples"][0]
    assert (first["expected"], first["fp32"], first["answer"]) == (5.0, 4.0, 3.0)
    assert first["outcome"] == "lost"
    assert not {"margin", "fp32_margin"} & first.keys()


def test_a_long_context_is_cut_around_its_answer():
    context = "before " * 100 + "Rouen" + " after" * 100
    start = context.index("Rouen")
    questions = (
        QuestionExample("q0", "where?", context, ("Rouen", "Rouen"), (start, start)),
        QuestionExample("q1", "who?", "a short one", ("short",), (2,)),
        QuestionExample("q2", "who?", "a short one", ("short",), (2,)),
    )
    fp32 = AnswerPredictions(("before", "a short", "short"))
    fp8 = AnswerPredictions(("after", "one", "The short."))
    changed = changed_examples(get_task("squad"), questions, fp32, fp8)
    entries = changed_to_dict(changed, "onnxruntime", 20)["examples"]
    # The third differs only in what the official normalization drops.
    assert [(e["id"], e["outcome"]) for e in entries] == [("q1", "lost"), ("q0", "neither")]
    assert entries[1]["expected"] == ["Rouen"]
    cut = entries[1]["texts"]["context"]
    assert "before Rouen after" in cut
    assert cut[0] == cut[-1] == "…"
    assert len(cut) <= 400
    assert entries[0]["texts"] == {"question": "who?", "context": "a short one"}


def test_at_most_so_many_are_kept_and_all_are_counted():
    examples = sentences(*[0] * 300)
    changed = changed_examples(
        get_task("sst2"), examples, classes(*[(1, 0)] * 300), classes(*[(0, 1)] * 300)
    )
    assert (changed.total, len(changed.examples)) == (300, KEPT)
    shown = changed_to_dict(changed, "onnxruntime", 20)
    assert (shown["total"], len(shown["examples"])) == (300, 20)
    json.dumps(shown, allow_nan=False)


@pytest.mark.parametrize("length", [400, 401, 5000])
def test_texts_are_at_most_400_characters(length):
    examples = (TextExample("0", ("x" * length,), 0),)
    changed = changed_examples(get_task("sst2"), examples, classes((1, 0)), classes((0, 1)))
    text = changed.examples[0].texts["sentence"]
    assert len(text) == 400 if length == 400 else len(text) < 400
    assert text.endswith("…") is (length > 400)
