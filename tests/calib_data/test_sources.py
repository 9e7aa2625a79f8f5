import json
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
from datasets.exceptions import DatasetNotFoundError
from hub import Answer, Hub

from calib_data.errors import DataFormatError, DataNotFoundError, NetworkError
from calib_data.sources import load_examples
from calib_data.tasks import TASKS, Split, TextExample

SST2, MRPC, SQUAD = TASKS["sst2"], TASKS["mrpc"], TASKS["squad"]
MRPC_HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
SHARED_DATA = Path(__file__).parents[2] / "../shared/data"


def write_sst2(root, *lines, header="sentence\tlabel"):
    root.mkdir(parents=True, exist_ok=True)
    (root / "dev.tsv").write_text("\n".join([header, *lines, ""]), encoding="utf-8")


def squad_json(
    context="Paris is big.", question="What is big?", answers=(("Paris", 0),), identity="q1"
):
    qas = [
        {
            "id": identity,
            "question": question,
            "answers": [{"text": text, "answer_start": start} for text, start in answers],
        }
    ]
    return {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]}


def test_glue_quirks_survive_reading(tmp_path):
    # Byte order mark, CRLF, a quote that never closes, and a separator that is not a line end.
    rows = [MRPC_HEADER, '1\t7\t8\t"He said so.\tHe said "so".', "0\t9\t10\ta\x85b\tc"]
    (tmp_path / "dev.tsv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*rows, ""]).encode())

    assert load_examples(MRPC, Split.DEV, tmp_path) == (
        TextExample("0", ('"He said so.', 'He said "so".'), 1),
        TextExample("1", ("a\x85b", "c"), 0),
    )


def test_columns_are_found_by_name(tmp_path):
    write_sst2(tmp_path, "1\textra\tfine film ", header="label\tnote\tsentence")
    assert load_examples(SST2, Split.DEV, tmp_path) == (TextExample("0", ("fine film ",), 1),)


@pytest.mark.parametrize("below", ["glue/SST-2", "SST-2", "."])
def test_data_dir_may_be_any_level(tmp_path, below):
    write_sst2(tmp_path / below, "good\t1")
    assert len(load_examples(SST2, Split.DEV, tmp_path)) == 1


def test_missing_folder_and_missing_file_name_the_layout(tmp_path):
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataNotFoundError) as caught:
            load_examples(SST2, Split.TRAIN, place)
        assert str(place) in caught.value.message
        assert "--data-dir" in caught.value.remedy
        assert "glue/SST-2/train.tsv" in caught.value.remedy


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"sentence\tscore\ngood\t1\n", "dev.tsv:1: no column 'label'"),
        (b"sentence\tlabel\ngood\t1\nbad\n", "dev.tsv:3: 1 fields"),
        (b"sentence\tlabel\ngood\tx\t1\n", "dev.tsv:2: label 'x'"),
        (b"sentence\tlabel\ngood\t1\nbad\t2\n", "dev.tsv:3: label '2' is not one of 0, 1"),
        (b"sentence\tlabel\ngood\t-1\n", "dev.tsv:2: label '-1'"),
        (b"sentence\tlabel\ngood\t\n", "dev.tsv:2: label ''"),
        (b"sentence\tlabel\n  \t1\n", "dev.tsv:2: empty text"),
        (b"sentence\tlabel\ngood\t1\nb\xe9d\t0\n", "dev.tsv:3: not UTF-8 (byte 0xe9)"),
        (b"sentence\tlabel\n", "no examples"),
        (b"", "dev.tsv:1: no column 'sentence'"),
    ],
)
def test_broken_tsv_is_refused_with_its_line(tmp_path, content, complaint):
    (tmp_path / "dev.tsv").write_bytes(content)
    with pytest.raises(DataFormatError) as caught:
        load_examples(SST2, Split.DEV, tmp_path)
    assert complaint in caught.value.message


def test_squad_reads_answers_and_offsets(tmp_path):
    content = squad_json(answers=(("Paris", 0), ("is big", 6)))
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(content))
    (example,) = load_examples(SQUAD, Split.DEV, tmp_path)
    assert (example.id, example.question) == ("q1", "What is big?")
    assert example.answers == ("Paris", "is big")
    assert example.answer_starts == (0, 6)


def test_squad_training_parts_are_joined_and_a_whole_file_wins(tmp_path):
    for name in ("train-v1.1-b.json", "train-v1.1-a.json"):
        content = squad_json(context=f"Paris {name}", identity=name)
        (tmp_path / name).write_text(json.dumps(content))
    parts = load_examples(SQUAD, Split.TRAIN, tmp_path)
    assert [e.context for e in parts] == ["Paris train-v1.1-a.json", "Paris train-v1.1-b.json"]

    (tmp_path / "train-v1.1.json").write_text(json.dumps(squad_json(context="Paris whole")))
    assert [e.context for e in load_examples(SQUAD, Split.TRAIN, tmp_path)] == ["Paris whole"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{\n'data': 1}", "dev-v1.1.json:2: not JSON"),
        ("[]", "no 'data'"),
        (json.dumps({"data": []}), "no examples"),
        (json.dumps({"data": [{"title": "t"}]}), "article 0: no 'paragraphs'"),
        (json.dumps(squad_json(answers=(("Paris", 3),))), "'q1': the context has no 'Paris'"),
        (json.dumps(squad_json(answers=(("big.", -4),))), "at character -4"),
        (json.dumps(squad_json(answers=())), "'q1': no answers"),
        (json.dumps(squad_json(question=" ")), "'q1': empty text"),
        (json.dumps(squad_json(context="", answers=(("a", 0),))), "'q1', context: empty text"),
        (
            json.dumps(squad_json(question="\ud800")),
            "dev-v1.1.json: not JSON (half of a surrogate pair)",
        ),
    ],
)
def test_broken_squad_is_refused_with_its_place(tmp_path, content, complaint):
    (tmp_path / "dev-v1.1.json").write_text(content)
    with pytest.raises(DataFormatError) as caught:
        load_examples(SQUAD, Split.DEV, tmp_path)
    assert complaint in caught.value.message


@pytest.mark.parametrize("names", [("dev-v1.1.json",), ("train-v1.1-a.json", "train-v1.1-b.json")])
def test_question_ids_that_occur_twice_are_refused(tmp_path, names):
    content = squad_json()
    if len(names) == 1:
        content["data"] *= 2
    for name in names:
        (tmp_path / name).write_text(json.dumps(content))
    split = Split.DEV if len(names) == 1 else Split.TRAIN
    with pytest.raises(DataFormatError, match="question id 'q1' occurs twice"):
        load_examples(SQUAD, split, tmp_path)


@pytest.fixture
def hub(monkeypatch):
    """Stand in for the hub: hand out `rows`, or raise `error`; `silence` where it is not there."""
    state = SimpleNamespace(rows=[], features=None, error=None, silence=None, asked=None)

    def dataset_info(*_, timeout):
        if state.silence:
            raise state.silence

    def load_dataset(*args, split):
        state.asked = (*args, split)
        if state.error:
            raise state.error
        return datasets.Dataset.from_list(state.rows, features=state.features)

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return state


def test_hub_rows_become_examples(hub):
    hub.rows = [{"sentence1": "a ", "sentence2": "b", "label": 1, "idx": 5}]
    assert load_examples(MRPC, Split.DEV, None) == (TextExample("0", ("a ", "b"), 1),)
    assert hub.asked == ("nyu-mll/glue", "mrpc", "validation")

    answers = {"text": ["Paris"], "answer_start": [0]}
    hub.rows = [{"id": "q", "question": "Who?", "context": "Paris.", "answers": answers}]
    (question,) = load_examples(SQUAD, Split.TRAIN, None)
    assert (question.id, question.answers, question.answer_starts) == ("q", ("Paris",), (0,))
    assert hub.asked == ("rajpurkar/squad", None, "train")


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("mnli", ("nyu-mll/glue", "mnli", "validation_matched")),
        ("mnli-mm", ("nyu-mll/glue", "mnli", "validation_mismatched")),
    ],
)
def test_both_mnli_tasks_share_the_training_rows(hub, name, asked):
    names = ["entailment", "neutral", "contradiction"]
    hub.features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=names),
            "idx": datasets.Value("int32"),
        }
    )
    hub.rows = [{"premise": "p", "hypothesis": "h", "label": i, "idx": 7} for i in range(3)]
    examples = load_examples(TASKS[name], Split.DEV, None)
    assert hub.asked == asked
    assert [TASKS[name].labels[e.label] for e in examples] == names
    load_examples(TASKS[name], Split.TRAIN, None)
    assert hub.asked == ("nyu-mll/glue", "mnli", "train")


def test_hidden_hub_labels_are_refused(hub):
    hub.rows = [{"sentence": "fine", "label": 0}, {"sentence": "fine", "label": -1}]
    with pytest.raises(DataFormatError, match="row 1: label '-1'"):
        load_examples(SST2, Split.DEV, None)


def test_silent_hub_is_one_line_that_offers_a_local_copy(hub):
    hub.error = ConnectionError("Couldn't reach\nthe Hub (OfflineModeIsEnabled)")
    with pytest.raises(NetworkError) as caught:
        load_examples(SST2, Split.DEV, None)
    assert "nyu-mll/glue" in caught.value.message
    assert "\n" not in caught.value.message
    assert "--data-dir" in caught.value.remedy


def test_a_download_that_breaks_off_is_a_network_problem(hub):
    # httpx or httpx2, by release of huggingface_hub.
    client = import_module(type(huggingface_hub.get_session()).__module__.partition(".")[0])
    hub.error = client.ReadTimeout("timed out")
    with pytest.raises(NetworkError, match="timed out"):
        load_examples(SST2, Split.DEV, None)


def test_a_cache_that_lacks_data_does_not_hide_that_the_hub_is_silent(hub):
    hub.silence = TimeoutError("nobody\nanswers")
    hub.error = ValueError("BuilderConfig 'sst2' not found in the cache")
    with pytest.raises(NetworkError, match="nobody answers"):
        load_examples(SST2, Split.DEV, None)


@pytest.fixture
def real_client(monkeypatch, tmp_path):
    """Point the hub's client and `datasets` at a hub of the tests, with an empty cache."""

    def point(hub: Hub) -> None:
        files = "/{repo_id}/resolve/{revision}/{filename}"
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + files)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)

    return point


@pytest.mark.parametrize("status", [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS])
def test_a_hub_that_is_down_is_asked_once(real_client, status):
    with Hub(always=Answer(status)) as hub:
        real_client(hub)
        with pytest.raises(NetworkError, match=str(status.value)):
            load_examples(SST2, Split.DEV, None)
    assert sum("/datasets/" in asked for asked in hub.requests) == 1


def test_a_token_that_has_run_out(real_client):
    said = {"X-Error-Message": "Invalid credentials in Authorization header"}
    with Hub(always=Answer(HTTPStatus.UNAUTHORIZED, headers=said)) as hub:
        real_client(hub)
        with pytest.raises(NetworkError, match="Invalid credentials") as caught:
            load_examples(SST2, Split.DEV, None)
    assert "hf auth login" in caught.value.remedy


@pytest.mark.parametrize(
    "error", [DatasetNotFoundError("doesn't exist"), ValueError("BuilderConfig 'sst2' not found")]
)
def test_unknown_hub_name_is_not_a_network_problem(hub, error):
    hub.error = error
    with pytest.raises(DataNotFoundError, match="nyu-mll/glue"):
        load_examples(SST2, Split.DEV, None)


def test_demo_needs_neither_hub_nor_folder(hub):
    task = TASKS["demo"]
    train, dev = (load_examples(task, split, None) for split in (Split.TRAIN, Split.DEV))
    assert len(train) > len(dev) > 0
    assert not {example.id for example in train} & {example.id for example in dev}
    assert {example.label for example in dev} == {0, 1}
    assert hub.asked is None


@pytest.mark.shared
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no shared data")
@pytest.mark.parametrize(
    ("task", "split", "count"),
    [
        (SST2, Split.TRAIN, 67_349),
        (SST2, Split.DEV, 872),
        (MRPC, Split.TRAIN, 3_668),
        (MRPC, Split.DEV, 408),
        (SQUAD, Split.DEV, 10_570),
    ],
)
def test_real_files_are_read_whole(task, split, count):
    assert len(load_examples(task, split, SHARED_DATA)) == count
