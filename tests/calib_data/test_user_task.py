import csv
import json

import pandas as pd
import pytest
import yaml

from calib_data.errors import DataFormatError, DataNotFoundError, TaskFileError, UsageError
from calib_data.sources import load_examples
from calib_data.tasks import Split, TextExample, get_task
from calib_data.user_task import with_labels

FIELDS = {
    "name": "tickets",
    "dev": "dev.jsonl",
    "text": "body",
    "label": "queue",
    "labels": ["billing", "bug", "other"],
}
ROWS = [("I paid\ttwice", "billing"), ('It says "error', "bug"), ("two\nlines, one text", "other")]


def write_task(folder, content=None, **changed):
    fields = {k: v for k, v in {**FIELDS, **changed}.items() if v is not None}
    file = folder / "task.yaml"
    file.write_text(yaml.safe_dump(fields) if content is None else content, encoding="utf-8")
    return str(file)


def dev(file):
    return load_examples(get_task(file), Split.DEV, None)


def write_rows(file, rows=ROWS):
    frame = pd.DataFrame(rows, columns=["body", "queue"])
    if file.suffix == ".jsonl":
        lines = [json.dumps({"body": body, "queue": queue}) for body, queue in rows]
        file.write_text("\n".join(lines) + "\n\n")
    elif file.suffix == ".csv":
        frame.to_csv(file, index=False)
    elif file.suffix == ".tsv":
        frame.to_csv(file, index=False, sep="\t", quoting=csv.QUOTE_NONE)
    else:
        frame.to_parquet(file)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_every_kind_of_file(tmp_path, suffix):
    rows = ROWS[1:2] if suffix == "tsv" else ROWS  # a TSV field holds no tab and no line feed
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / f"data/dev.{suffix}", rows)
    file = write_task(tmp_path, dev=f"data/dev.{suffix}")
    assert dev(file) == tuple(
        TextExample(str(i), (body,), FIELDS["labels"].index(queue))
        for i, (body, queue) in enumerate(rows)
    )


def test_defaults_and_what_is_given(tmp_path):
    task = get_task(write_task(tmp_path))
    assert (task.name, task.metrics, task.max_length) == ("tickets", ("accuracy",), 128)
    assert task.buckets == (32, 64, 128)
    task = get_task(write_task(tmp_path, metrics=["f1"], max_length=200, labels=["a", "b"]))
    assert (task.metrics, task.buckets) == (("f1",), (32, 64, 128, 200))
    task = get_task(write_task(tmp_path, max_length=64, buckets=[64, 32]))
    assert task.buckets == (32, 64)


def test_pairs_several_files_and_numbered_labels(tmp_path):
    (tmp_path / "a.csv").write_text("left,right,label\nx,y,1\n", encoding="utf-8-sig")
    (tmp_path / "b.jsonl").write_text('{"left": "z", "right": "w", "label": 0, "more": []}\n')
    file = write_task(
        tmp_path, dev=["a.csv", "b.jsonl"], text=["left", "right"], label=None, labels=["no", "yes"]
    )
    assert dev(file) == (TextExample("0", ("x", "y"), 1), TextExample("1", ("z", "w"), 0))


def test_labels_that_are_numbers_are_names(tmp_path):
    (tmp_path / "dev.jsonl").write_text('{"body": "x", "queue": 1}\n{"body": "y", "queue": "3"}\n')
    file = write_task(tmp_path, labels=[1, 2, 3])
    assert [e.label for e in dev(file)] == [0, 2]


def test_regression(tmp_path):
    (tmp_path / "dev.csv").write_text("body,queue\nx,0.25\ny,-3\n")
    task = get_task(write_task(tmp_path, type="regression", labels=None, dev="dev.csv"))
    assert task.regression
    assert (task.outputs, task.metrics) == (1, ("pearson", "spearman"))
    assert not task.labels_from_checkpoint
    assert [e.label for e in load_examples(task, Split.DEV, None)] == [0.25, -3.0]


def test_identity_is_name_and_content(tmp_path):
    first = get_task(write_task(tmp_path)).identity
    assert first.startswith("tickets@")
    assert get_task(write_task(tmp_path)).identity == first
    assert get_task(write_task(tmp_path, text="title")).identity != first
    assert get_task("sst2").identity == "sst2"


def test_labels_may_be_left_to_the_checkpoint(tmp_path):
    assert get_task(write_task(tmp_path, labels=None)).labels_from_checkpoint
    assert not get_task(write_task(tmp_path)).labels_from_checkpoint


def test_labels_of_the_checkpoint_must_suit_the_metrics(tmp_path):
    task = get_task(write_task(tmp_path, labels=None, metrics="f1"))
    assert with_labels(task, ("a", "b")).labels == ("a", "b")
    with pytest.raises(TaskFileError, match="the checkpoint has 3"):
        with_labels(task, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": None}, "name is missing"),
        ({"name": "sst2"}, "name 'sst2' is a task of this package"),
        ({"dev": None}, "dev is missing"),
        ({"dev": "dev.xlsx"}, "dev is 'dev.xlsx'"),
        ({"dev": 3}, "dev is 3"),
        ({"text": None}, "text is missing"),
        ({"text": ["a", "b", "c"]}, "text names 3 columns"),
        ({"text": ["a", "a"]}, "text names something twice"),
        ({"labels": "a"}, "labels is 'a', not a list"),
        ({"labels": ["a"]}, "labels needs two"),
        ({"labels": ["a", "A"]}, "labels needs two different names"),
        ({"labels": [True, False]}, "labels has True"),
        ({"metrics": ["rouge"]}, "metrics has 'rouge'"),
        ({"metrics": ["f1"]}, "metrics has f1"),
        ({"type": "regression"}, "labels are given for a regression"),
        ({"type": "regression", "labels": None, "metrics": ["accuracy"]}, "metrics has 'accuracy'"),
        ({"type": "ranking"}, "type is 'ranking'"),
        ({"max_length": "long"}, "max_length is 'long'"),
        ({"max_length": 0}, "max_length is 0"),
        ({"buckets": [32, 64]}, "buckets is [32, 64]"),
        ({"colour": "red"}, "colour is not a field"),
    ],
)
def test_wrong_field_is_wrong_usage_and_is_named(tmp_path, changed, said):
    file = write_task(tmp_path, **changed)
    with pytest.raises(TaskFileError) as caught:
        get_task(file)
    assert caught.value.exit_code == 2
    assert f"{file}: {said}" in caught.value.message


@pytest.mark.parametrize(
    ("content", "said"),
    [("name: [\n", "task.yaml:2: not YAML"), ("- a\n", "no fields"), ("", "no fields")],
)
def test_file_that_is_no_mapping(tmp_path, content, said):
    with pytest.raises(TaskFileError) as caught:
        get_task(write_task(tmp_path, content))
    assert said in caught.value.message


def test_missing_files(tmp_path):
    with pytest.raises(TaskFileError, match=r"cannot read the task file .*no\.yaml"):
        get_task(str(tmp_path / "no.yaml"))
    task = get_task(write_task(tmp_path))
    with pytest.raises(DataNotFoundError, match=r"dev\.jsonl: no such file"):
        load_examples(task, Split.DEV, None)
    with pytest.raises(DataNotFoundError, match="has no train files"):
        load_examples(task, Split.TRAIN, None)


def test_a_data_folder_has_no_say(tmp_path):
    with pytest.raises(UsageError, match="names its data files itself"):
        load_examples(get_task(write_task(tmp_path)), Split.DEV, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.jsonl", b'{"body": "x", "queue": "bug"}\n{"body": "y"\n', "d.jsonl:2: not JSON"),
        ("d.jsonl", b'["x", "bug"]\n', "d.jsonl:1: list where an object"),
        ("d.jsonl", b'{"body": "x"}\n', "d.jsonl:1: no 'queue' (found: body)"),
        ("d.jsonl", b'{"body": null, "queue": "bug"}\n', "d.jsonl:1: nothing where a text"),
        ("d.jsonl", b'{"body": " ", "queue": "bug"}\n', "d.jsonl:1: empty text"),
        ("d.jsonl", b'{"body": "x", "queue": NaN}\n', "d.jsonl:1: not JSON (NaN"),
        ("d.jsonl", b'{"body": "x", "queue": 3}\n', "d.jsonl:1: label '3' is not one of 0, 1, 2"),
        (
            "d.jsonl",
            b'{"body": "\\ud800", "queue": 1}\n',
            "d.jsonl:1: not JSON (half of a surrogate pair)",
        ),
        ("d.jsonl", b'\n{"body": "\xe9", "queue": 1}\n', "d.jsonl:2: not UTF-8 (byte 0xe9)"),
        ("d.jsonl", b"", "dev split has no examples"),
        ("d.csv", b"body,label\nx,bug\n", "d.csv:1: no column 'queue' (found: body, label)"),
        ("d.csv", b'body,queue\n"a\nb",bug\nx\n', "d.csv:4: 1 fields, the header has 2"),
        ("d.csv", b'body,queue\nx,bug\n"open,bug\n', "d.csv:3: not CSV"),
        ("d.csv", b"", "d.csv:1: no column 'body'"),
        ("d.tsv", b"body\tqueue\nx\ty\tbug\n", "d.tsv:2: 3 fields"),
        ("d.tsv", b"body\tqueue\r\nx\tbugs\r\n", "d.tsv:2: label 'bugs'"),
        ("d.parquet", b"PAR1", "d.parquet: not readable as parquet"),
    ],
)
def test_broken_data_is_refused_with_its_place(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFormatError) as caught:
        dev(write_task(tmp_path, dev=name))
    assert said in caught.value.message


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_a_very_long_text_is_a_text(tmp_path, suffix):
    text = "word " * 40_000
    write_rows(tmp_path / f"dev.{suffix}", [(text, "bug")])
    before = csv.field_size_limit()
    assert dev(write_task(tmp_path, dev=f"dev.{suffix}"))[0].texts == (text,)
    assert csv.field_size_limit() == before
