import pytest

from calib_data.labels import are_placeholders, match_labels
from calib_data.tasks import TASKS


@pytest.mark.parametrize(
    ("task", "names", "order"),
    [
        ("sst2", ("NEGATIVE", "POSITIVE"), (0, 1)),
        ("sst2", ("Pos", "neg"), (1, 0)),
        ("mnli", ("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), (2, 1, 0)),
        ("mnli", ("entailment", "contradiction", "neutral"), (0, 2, 1)),
        ("mrpc", ("Not Equivalent", "equivalent"), (0, 1)),
        ("mrpc", ("is_paraphrase", "not-paraphrase"), (1, 0)),
        ("mrpc", ("NotEquivalent", "Equivalent"), (0, 1)),
        ("qqp", ("duplicate", "non-duplicate"), (1, 0)),
        ("cola", ("ungrammatical", "grammatical"), (0, 1)),
        ("cola", ("acceptable", "not_acceptable"), (1, 0)),
        ("rte", ("not_entailment", "entailment"), (1, 0)),
        ("wnli", ("no_entailment", "entailment"), (0, 1)),
        ("sst2", ("LABEL_0", "LABEL_1"), None),
        ("sst2", ("negative", "negative"), None),
        ("sst2", ("negative", "neutral"), None),
        ("mnli", ("entailment", "neutral"), None),
    ],
)
def test_labels_are_found_under_other_spellings(task, names, order):
    assert match_labels(names, TASKS[task].labels) == order


def test_labels_that_are_synonyms_of_each_other_stay_apart():
    assert match_labels(("Paraphrase", "equivalent"), ("equivalent", "paraphrase")) == (1, 0)


@pytest.mark.parametrize(
    ("names", "placeholders"),
    [
        (("LABEL_0", "LABEL_1"), True),
        (("0", "1"), True),
        (("label 0", "class_1"), True),
        (("LABEL_0", "positive"), False),
        (("1 star", "2 stars"), False),
    ],
)
def test_names_that_only_number_say_nothing(names, placeholders):
    assert are_placeholders(names) is placeholders
