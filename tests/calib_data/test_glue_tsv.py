"""GLUE's files as GLUE writes them, task by task, quirks included."""

import pytest

from calib_data.errors import DataFormatError, DataNotFoundError
from calib_data.sources import load_examples
from calib_data.tasks import TASKS, Split

MNLI_PARSES = "p1\tp2\tp3\tp4"
MNLI_TRAIN = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label"
)
MNLI_DEV = MNLI_TRAIN.replace("gold_label", "label2\tlabel3\tlabel4\tlabel5\tgold_label")
STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"

# Task: folder, dev file, lines, and what they say: texts and label (name or number).
FORMATS = {
    "cola": (
        "CoLA",
        "dev.tsv",
        [
            "gj04\t1\t\tThe sailors rode the breeze clear of the rocks.",
            'c_13\t0\t*\tThey "made him.',
        ],
        [
            (("The sailors rode the breeze clear of the rocks.",), "acceptable"),
            (('They "made him.',), "unacceptable"),
        ],
    ),
    "sst2": (
        "SST-2",
        "dev.tsv",
        ["sentence\tlabel", "it 's a charming journey . \t1", "unflinchingly bleak \t0"],
        [(("it 's a charming journey . ",), "positive"), (("unflinchingly bleak ",), "negative")],
    ),
    "mrpc": (
        "MRPC",
        "dev.tsv",
        [
            "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
            '1\t1355540\t1355592\tHe said so .\t"The pie business .',
            '0\t2\t3\tA "quote\tb',
        ],
        [
            (("He said so .", '"The pie business .'), "equivalent"),
            (('A "quote', "b"), "not_equivalent"),
        ],
    ),
    "stsb": (
        "STS-B",
        "dev.tsv",
        [
            STSB,
            "0\tmain-captions\tMSRvid\t2012test\t0\tn\tn\tA man dances.\tA man is dancing.\t5.000",
            '1\tmain-news\theadlines\t2013\t1\tn\tn\tHe said "no.\tShe "said yes.\t2.615',
        ],
        [
            (("A man dances.", "A man is dancing."), 5.0),
            (('He said "no.', 'She "said yes.'), 2.615),
        ],
    ),
    "qqp": (
        "QQP",
        "dev.tsv",
        [
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
            '201359\t303345\t303346\tWhy are "we" here?\tWhy "here?\t0',
            "4\t5\t6\tHow?\tHow so?\t1",
        ],
        [
            (('Why are "we" here?', 'Why "here?'), "not_duplicate"),
            (("How?", "How so?"), "duplicate"),
        ],
    ),
    "mnli": (
        "MNLI",
        "dev_matched.tsv",
        [
            MNLI_DEV,
            f'0\t63735\t63735n\tslate\t{MNLI_PARSES}\tThe new "rights.\tAll like it.\t'
            "neutral\tentailment\tneutral\tneutral\tneutral\tneutral",
            f"1\t9\t9c\tgov\t{MNLI_PARSES}\tSite.\tNo.\tcontradiction\tc\tc\tc\tc\tcontradiction",
            f"2\t9\t9e\tgov\t{MNLI_PARSES}\tSite.\tYes.\te\te\te\te\te\tentailment",
        ],
        [
            (('The new "rights.', "All like it."), "neutral"),
            (("Site.", "No."), "contradiction"),
            (("Site.", "Yes."), "entailment"),
        ],
    ),
    "mnli-mm": (
        "MNLI",
        "dev_mismatched.tsv",
        [MNLI_DEV, f"0\t7\t7c\tletters\t{MNLI_PARSES}\tA.\tB.\tc\tc\tc\tc\tc\tcontradiction"],
        [(("A.", "B."), "contradiction")],
    ),
    "qnli": (
        "QNLI",
        "dev.tsv",
        [
            "index\tquestion\tsentence\tlabel",
            '0\tWhat came "into force?\tAs of that day.\tentailment',
            "1\tWhere?\tNot here.\tnot_entailment",
        ],
        [
            (('What came "into force?', "As of that day."), "entailment"),
            (("Where?", "Not here."), "not_entailment"),
        ],
    ),
    "rte": (
        "RTE",
        "dev.tsv",
        [
            "index\tsentence1\tsentence2\tlabel",
            "0\tDana Reeve has died.\tReeve had an accident.\tnot_entailment",
            "1\tA.\tB.\tentailment",
        ],
        [
            (("Dana Reeve has died.", "Reeve had an accident."), "not_entailment"),
            (("A.", "B."), "entailment"),
        ],
    ),
    "wnli": (
        "WNLI",
        "dev.tsv",
        [
            "index\tsentence1\tsentence2\tlabel",
            "0\tIt had a hole.\tThe pin had.\t0",
            "1\tIt had.\tThe carrot had.\t1",
        ],
        [
            (("It had a hole.", "The pin had."), "not_entailment"),
            (("It had.", "The carrot had."), "entailment"),
        ],
    ),
}


def said(task, examples):
    return [(e.texts, e.label if task.regression else task.labels[int(e.label)]) for e in examples]


def write(folder, name, lines, end="\n"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(end.join([*lines, ""]).encode())


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", FORMATS)
def test_official_format(tmp_path, name, mark, end):
    folder, file, lines, expected = FORMATS[name]
    lines = [mark + lines[0].lstrip("\ufeff"), *lines[1:]]
    write(tmp_path / folder, file, lines, end)
    examples = load_examples(TASKS[name], Split.DEV, tmp_path)
    assert said(TASKS[name], examples) == expected
    assert [e.id for e in examples] == [str(index) for index in range(len(expected))]


@pytest.mark.parametrize("name", ["mnli", "mnli-mm"])
def test_mnli_trains_on_one_file_with_fewer_columns(tmp_path, name):
    row = (
        f"0\t31193\t31193n\tgovernment\t{MNLI_PARSES}\tCream skimming.\tProduct.\tneutral\tneutral"
    )
    write(tmp_path / "glue/MNLI", "train.tsv", [MNLI_TRAIN, row])
    examples = load_examples(TASKS[name], Split.TRAIN, tmp_path)
    assert said(TASKS[name], examples) == [(("Cream skimming.", "Product."), "neutral")]


@pytest.mark.parametrize("name", ["rte", "qnli"])
def test_ids_and_names_of_a_label_are_the_same_label(tmp_path, name):
    folder, file, lines, expected = FORMATS[name]
    ids = [
        line.removesuffix(f"\t{label}") + f"\t{TASKS[name].labels.index(label)} "
        for line, (_, label) in zip(lines[1:], expected, strict=True)
    ]
    write(tmp_path / folder, file, [lines[0], *ids])
    assert said(TASKS[name], load_examples(TASKS[name], Split.DEV, tmp_path)) == expected


def test_broken_rows_of_qqp_are_left_out_and_counted_once(tmp_path, logged):
    folder, file, lines, expected = FORMATS["qqp"]
    # A question with a line feed in it: neither half is a row.
    broken = ["7\t8\t9\tWhat is", "this?\tWhat is it?\t1", "", "7\t8\t9\tWhat?\tWhat?\t"]
    write(tmp_path / folder, file, [lines[0], *broken, *lines[1:]])
    examples = load_examples(TASKS["qqp"], Split.DEV, tmp_path)
    assert said(TASKS["qqp"], examples) == expected
    place = tmp_path / folder / file
    assert logged == [
        f"{place}: rows without a text or a label are left out (3; the first: {place}:2)",
        f"{place}: blank lines are left out (1; the first: {place}:4)",
    ]


def test_a_pair_with_one_empty_text_stays_and_is_counted(tmp_path, logged):
    folder, file, lines, _ = FORMATS["qqp"]
    write(tmp_path / folder, file, [lines[0], "1\t2\t3\tWhat?\t\t0", *lines[1:]])
    examples = load_examples(TASKS["qqp"], Split.DEV, tmp_path)
    assert examples[0].texts == ("What?", "")
    assert len(examples) == 3
    assert len(logged) == 1
    assert "pairs with one empty text are kept" in logged[0]
    assert "(1; the first" in logged[0]


def test_fields_beyond_the_columns_are_left_aside_and_counted(tmp_path, logged):
    folder, file, lines, expected = FORMATS["stsb"]
    write(tmp_path / folder, file, [lines[0], lines[1] + "\tsource", lines[2]])
    assert said(TASKS["stsb"], load_examples(TASKS["stsb"], Split.DEV, tmp_path)) == expected
    assert "fields beyond the 10 columns are left aside (1;" in logged[0]


@pytest.mark.parametrize(
    ("name", "line", "complaint"),
    [
        ("cola", "gj04\t1\t", "dev.tsv:3: 3 fields, expected 4"),
        ("cola", "gj04\t2\t\tText.", "dev.tsv:3: label '2' is not one of 0, 1"),
        (
            "stsb",
            "1\tg\tf\ty\t1\tn\tn\tA.\tB.\tnan",
            "dev.tsv:4: label 'nan' is not a finite number",
        ),
        ("stsb", "1\tg\tf\ty\t1\tn\tn\tA.\tB.\thigh", "label 'high'"),
        (
            "rte",
            "2\tA.\tB.\tmaybe",
            "label 'maybe' is not one of 0, 1 (entailment, not_entailment)",
        ),
        ("rte", "2\tA.\tB.", "dev.tsv:4: 3 fields"),
        ("rte", "2\t\t \tentailment", "dev.tsv:4: empty text"),
        ("mnli", f"0\t1\t1\tg\t{MNLI_PARSES}\tA.\tB.\tc\tc\tc\tc\tc\t-", "label '-'"),
    ],
)
def test_broken_rows_elsewhere_are_refused_with_their_line(tmp_path, name, line, complaint):
    folder, file, lines, _ = FORMATS[name]
    write(tmp_path / folder, file, [*lines, line])
    with pytest.raises(DataFormatError) as caught:
        load_examples(TASKS[name], Split.DEV, tmp_path)
    assert complaint in caught.value.message


MSR = [
    "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    '1\t10\t11\ttrain one\t"x',
    "0\t20\t21\tdev one\ty",
    "1\t30\t31\ttrain two\tz",
]


def test_mrpc_from_microsofts_files_gives_glues_splits(tmp_path):
    write(tmp_path, "msr_paraphrase_train.txt", MSR, "\r\n")
    write(tmp_path, "dev_ids.tsv", ["20\t21"])
    train, dev = (load_examples(TASKS["mrpc"], split, tmp_path) for split in Split)
    assert [e.texts[0] for e in train] == ["train one", "train two"]
    assert [e.texts[0] for e in dev] == ["dev one"]


def test_mrpc_without_glues_list_says_what_it_is_judged_on(tmp_path, logged):
    write(tmp_path, "msr_paraphrase_train.txt", MSR)
    write(tmp_path, "msr_paraphrase_test.txt", [MSR[0], "1\t40\t41\ttest one\tx"])
    train, dev = (load_examples(TASKS["mrpc"], split, tmp_path) for split in Split)
    assert [e.texts[0] for e in train] == ["train one", "dev one", "train two"]
    assert [e.texts[0] for e in dev] == ["test one"]
    assert len(logged) == 1
    assert "not on GLUE's development set" in logged[0]


def test_missing_mismatched_file_is_not_replaced_by_the_matched_one(tmp_path):
    folder, file, lines, _ = FORMATS["mnli"]
    write(tmp_path / folder, file, lines)
    with pytest.raises(DataNotFoundError, match=r"dev_mismatched\.tsv"):
        load_examples(TASKS["mnli-mm"], Split.DEV, tmp_path)
