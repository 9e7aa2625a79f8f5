"""Parquet, Arrow and saved data sets, written by the libraries that users write them with."""

import json
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from calib_data.errors import DataFormatError, DataNotFoundError
from calib_data.sources import load_examples
from calib_data.tasks import TASKS, QuestionExample, Split

SST2, SQUAD, STSB, MNLI = TASKS["sst2"], TASKS["squad"], TASKS["stsb"], TASKS["mnli"]


def sentences(names=("negative", "positive"), count=4):
    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=list(names)),
            "idx": datasets.Value("int32"),
        }
    )
    rows = {
        "sentence": [f"text {i} " for i in range(count)],
        "label": [i % 2 for i in range(count)],
        "idx": list(range(count)),
    }
    return datasets.Dataset.from_dict(rows, features=features)


def write_parquet(dataset, path: Path):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.to_parquet(path)


def write_saved_dict(dataset, folder: Path):
    datasets.DatasetDict({"train": dataset.select([0]), "validation": dataset}).save_to_disk(folder)


def write_cache_arrow(dataset, folder: Path):
    dataset.save_to_disk(folder / "scratch")  # stream format, as in the cache of `datasets`
    (file,) = (folder / "scratch").glob("*.arrow")
    file.rename(folder / "glue-validation.arrow")


LAYOUTS = {
    "hub": lambda d, root: write_parquet(d, root / "glue/sst2/validation-00000-of-00001.parquet"),
    "plain": lambda d, root: write_parquet(d, root / "sst2/validation.parquet"),
    "here": lambda d, root: write_parquet(d, root / "validation.parquet"),
    "cache": lambda d, root: write_cache_arrow(d, root / "sst2"),
    "dict": lambda d, root: write_saved_dict(d, root / "glue/SST-2"),
    "dict here": lambda d, root: write_saved_dict(d, root),
    "split": lambda d, root: d.save_to_disk(root / "sst2/validation"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_examples(tmp_path, layout):
    LAYOUTS[layout](sentences(), tmp_path)
    examples = load_examples(SST2, Split.DEV, tmp_path)
    assert [(e.id, e.texts, e.label) for e in examples] == [
        (str(i), (f"text {i} ",), i % 2) for i in range(4)
    ]


def test_saved_data_set_counts_only_if_it_says_which_split_it_is(tmp_path):
    sentences().save_to_disk(tmp_path)
    with pytest.raises(DataNotFoundError, match=r"validation\.parquet"):
        load_examples(SST2, Split.DEV, tmp_path)
    state = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps({**state, "_split": "validation"}))
    assert len(load_examples(SST2, Split.DEV, tmp_path)) == 4


def test_the_benchmarks_own_file_goes_first(tmp_path):
    LAYOUTS["plain"](sentences(), tmp_path)
    (tmp_path / "sst2/dev.tsv").write_text("sentence\tlabel\nown\t1\n")
    assert [e.texts for e in load_examples(SST2, Split.DEV, tmp_path)] == [("own",)]


def test_parts_are_joined_in_order_and_a_missing_one_is_noticed(tmp_path):
    for part in range(2):
        name = f"sst2/train-0000{part}-of-00002.parquet"
        write_parquet(sentences().select([2 * part, 2 * part + 1]), tmp_path / name)
    examples = load_examples(SST2, Split.TRAIN, tmp_path)
    assert [e.texts[0] for e in examples] == [f"text {i} " for i in range(4)]
    assert [e.id for e in examples] == ["0", "1", "2", "3"]
    (tmp_path / "sst2/train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataNotFoundError, match="1 of the 2 parts"):
        load_examples(SST2, Split.TRAIN, tmp_path)


@pytest.mark.parametrize("name", ["mnli", "mnli-mm"])
def test_mnlis_two_dev_sets_are_two_files(tmp_path, name):
    for split in ("matched", "mismatched"):
        rows = {"premise": [split], "hypothesis": ["h"], "label": [2]}
        write_parquet(
            datasets.Dataset.from_dict(rows),
            tmp_path / f"glue/mnli/validation_{split}-00000-of-00001.parquet",
        )
    (example,) = load_examples(TASKS[name], Split.DEV, tmp_path)
    assert example.texts[0] == {"mnli": "matched", "mnli-mm": "mismatched"}[name]
    assert TASKS[name].labels[example.label] == "contradiction"


def test_names_kept_with_the_ids_decide_what_they_mean(tmp_path):
    LAYOUTS["plain"](sentences(names=("POS", "NEG")), tmp_path)
    examples = load_examples(SST2, Split.DEV, tmp_path)
    assert [SST2.labels[e.label] for e in examples] == ["positive", "negative"] * 2


def test_other_names_belong_to_another_task(tmp_path):
    LAYOUTS["plain"](sentences(names=("entailment", "not_entailment")), tmp_path)
    with pytest.raises(DataFormatError, match="labels are entailment, not_entailment"):
        load_examples(SST2, Split.DEV, tmp_path)


@pytest.mark.parametrize("kind", ["string", "category", "float"])
def test_labels_as_pandas_writes_them(tmp_path, kind):
    frame = pd.DataFrame({"sentence": ["a", "b"], "label": ["positive", "negative"]})
    if kind == "category":
        frame["label"] = frame["label"].astype("category")
    if kind == "float":
        frame["label"] = [1.0, 0.0]
    frame.to_parquet(tmp_path / "validation.parquet")
    assert [e.label for e in load_examples(SST2, Split.DEV, tmp_path)] == [1, 0]


def test_scores_are_the_published_decimals_in_every_layout(tmp_path):
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [3.8, 2.615]}
    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.Value("float32"),  # as the hub has it
        }
    )
    table = datasets.Dataset.from_dict(rows, features=features)
    write_parquet(table, tmp_path / "stsb/validation.parquet")
    assert [e.label for e in load_examples(STSB, Split.DEV, tmp_path)] == [3.8, 2.615]


@pytest.mark.parametrize("below", ["squad/plain_text", "plain_text", "squad", "."])
def test_squad_tables(tmp_path, below):
    rows = {
        "id": ["q1"],
        "title": ["t"],
        "context": ["Paris is big."],
        "question": ["What is big?"],
        "answers": [{"text": ["Paris"], "answer_start": [0]}],
    }
    write_parquet(
        datasets.Dataset.from_dict(rows),
        tmp_path / below / "validation-00000-of-00001.parquet",
    )
    assert load_examples(SQUAD, Split.DEV, tmp_path) == (
        QuestionExample("q1", "What is big?", "Paris is big.", ("Paris",), (0,)),
    )


def table_of(**columns):
    return pa.table({"sentence": ["a", "b"], "label": [0, 1], **columns})


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (table_of(label=[0, None]), "row 1: label 'None' is not one of 0, 1"),
        (table_of(label=[0.0, float("nan")]), "row 1: label 'nan'"),
        (table_of(label=[0, -1]), "row 1: label '-1'"),
        (table_of(label=[True, False]), "row 0: label 'True'"),
        (table_of(sentence=["a", None]), "row 1: nothing where a text is expected"),
        (table_of(sentence=["a", ""]), "row 1: empty text"),
        (table_of(sentence=[1, 2]), "row 0: int where a text is expected"),
        (pa.table({"text": ["a"], "label": [0]}), "no column 'sentence' (found: text, label)"),
        (
            table_of(
                sentence=pa.Array.from_buffers(
                    pa.string(),
                    2,
                    [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"ab\xe9")],
                )
            ),
            "row 1: 'sentence' is not UTF-8",
        ),
    ],
)
def test_broken_rows_are_refused_with_their_place(tmp_path, table, complaint):
    pq.write_table(table, tmp_path / "validation.parquet")
    with pytest.raises(DataFormatError) as caught:
        load_examples(SST2, Split.DEV, tmp_path)
    assert complaint in caught.value.message
    assert "validation.parquet" in caught.value.message


@pytest.mark.parametrize("name", ["validation.parquet", "validation.arrow"])
def test_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a table at all")
    with pytest.raises(DataFormatError, match=name):
        load_examples(SST2, Split.DEV, tmp_path)


def test_damaged_saved_data_set_is_named(tmp_path):
    LAYOUTS["split"](sentences(), tmp_path)
    folder = tmp_path / "sst2/validation"
    next(folder.glob("*.arrow")).write_bytes(b"")
    with pytest.raises(DataFormatError, match="sst2/validation: not readable"):
        load_examples(SST2, Split.DEV, tmp_path)


def test_feather_is_arrow_too(tmp_path):
    pyarrow.feather.write_feather(table_of(), tmp_path / "validation.arrow")
    assert [e.label for e in load_examples(SST2, Split.DEV, tmp_path)] == [0, 1]
