"""A task's labelled examples, from a local copy, from the Hugging Face hub, or built in.

Without `--data-dir`, a benchmark's task comes from the hub, by `datasets`: `nyu-mll/glue`, one
configuration a task (MNLI's `validation_matched` and `validation_mismatched` are the two dev sets),
and `rajpurkar/squad`.

With `--data-dir`, these folders are searched in this order, here for SST-2 and for SQuAD:

    DATA_DIR/glue/SST-2     DATA_DIR/squad
    DATA_DIR/SST-2          DATA_DIR/squad/plain_text
    DATA_DIR/glue/sst2      DATA_DIR/plain_text
    DATA_DIR/sst2           DATA_DIR
    DATA_DIR

In each of them, these layouts; the first one found is read, and nothing is merged:

1. The benchmark's own files. GLUE: `train.tsv` and `dev.tsv` (MNLI: `dev_matched.tsv`,
   `dev_mismatched.tsv`; MRPC also as Microsoft's `msr_paraphrase_train.txt` and
   `msr_paraphrase_test.txt`; see `glue_tsv`). SQuAD: `train-v1.1.json`, or parts of it named
   `train-v1.1-*.json`, and `dev-v1.1.json`.
2. A folder that `datasets.save_to_disk` wrote, of a `DatasetDict` (`validation/state.json` below
   it) or of the split alone.
3. Parquet files named as on the hub: `validation.parquet`, `validation-00000-of-00001.parquet`.
4. Arrow files named as in the cache of `datasets`: `validation.arrow`, `glue-validation.arrow`,
   also in parts.

Tables (2 to 4) have the hub's columns. Labels may be written as ids or as names in every layout;
where a table keeps the names of its ids (`ClassLabel`), the names decide.

A user's task names its own files; see `calib_data.user_task`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from calib_data.errors import DataNotFoundError, UsageError
from calib_data.sources.glue_tsv import read_tsv, tsv_name
from calib_data.sources.hub import read_hub
from calib_data.sources.rows import refuse
from calib_data.sources.squad_json import read_squad, squad_patterns
from calib_data.sources.tables import read_saved, read_table_files
from calib_data.sources.user_files import read_user_files
from calib_data.tasks import Examples, Head, HubDataset, Split, Task


def load_examples(task: Task, split: Split, data_dir: Path | None) -> Examples:
    """Read every example of a split, in the order of its source.

    Texts are passed on verbatim. SST-2 lines end in a space, and the hub's copy keeps it: a
    WordPiece tokenizer ignores it, a byte-level one makes a token of it, so stripping it would feed
    such models something else than the reference scripts do.

    Args:
        task: What to load.
        split: Which part of it.
        data_dir: Folder with a local copy, in one of the layouts above, or None for the hub. A
            task that exists only in this package ignores it.

    Returns:
        At least one example.

    Raises:
        DataNotFoundError: The folder, a file in it, or the hub's data set does not exist.
        DataFormatError: The content is not what the layout promises.
        NetworkError: The hub does not answer.
        UsageError: A data folder is given for a user's task, which names its own files.
    """
    if task.files is not None:
        if data_dir is not None:
            raise UsageError(
                f"--data-dir {data_dir}: task '{task.name}' names its data files itself",
                "leave --data-dir out, or change train: and dev: in the task file",
            )
        examples, origin = read_user_files(task, task.files, split), f"task '{task.name}'"
    elif task.hub is None:
        from calib_data.demo import corpus

        return corpus.train_examples() if split is Split.TRAIN else corpus.dev_examples()
    elif data_dir is None:
        examples, origin = read_hub(task, task.hub, split), f"hub data set '{task.hub.path}'"
    else:
        examples, origin = _read_local(task, task.hub, split, data_dir)
    if not examples:
        refuse(f"{origin}: the {split.value} split has no examples")
    return examples


def _read_local(task: Task, hub: HubDataset, split: Split, data_dir: Path) -> tuple[Examples, str]:
    squad = task.head is Head.QUESTION_ANSWERING
    own = squad_patterns(split) if squad else (tsv_name(task, split),)
    remedy = f"give --data-dir a folder that holds {task.folder}/{own[0]}"
    if not data_dir.is_dir():
        raise DataNotFoundError(f"{data_dir}: no such folder", remedy)
    names = _folder_names(task, hub)
    for folder in (data_dir / name for name in names):
        for examples in _layouts(task, hub, split, folder):
            if examples is not None:
                return examples, str(folder)
    wanted = " or ".join((*own, f"{hub.split(split)}.parquet"))
    raise DataNotFoundError(
        f"{data_dir}: no {wanted} of task '{task.name}' there, in {', '.join(names[:-1])}", remedy
    )


def _folder_names(task: Task, hub: HubDataset) -> tuple[str, ...]:
    if task.head is Head.QUESTION_ANSWERING:
        return (task.folder, f"{task.folder}/plain_text", "plain_text", ".")
    benchmark, name = task.folder.split("/")
    return (task.folder, name, f"{benchmark}/{hub.config}", f"{hub.config}", ".")


def _layouts(task: Task, hub: HubDataset, split: Split, folder: Path) -> Iterator[Examples | None]:
    if not folder.is_dir():
        return
    if task.head is Head.QUESTION_ANSWERING:
        yield read_squad(split, folder)
    else:
        yield read_tsv(task, split, folder)
    name = hub.split(split)
    yield read_saved(task, name, folder)
    for suffix in ("parquet", "arrow"):
        yield read_table_files(task, name, folder, suffix)
