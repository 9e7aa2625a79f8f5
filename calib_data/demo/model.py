"""The demo checkpoint: trained on first use, found in the cache from then on."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from calib_data.cache import cache_folder, not_writable
from calib_data.demo.training import Recipe, train_into
from calib_data.durable import sync
from calib_data.progress import Progress, SilentProgress

_SILENT = SilentProgress()

# What decides the outcome of the training. Hashed as text: reading it is instant, while making
# the corpus just to see whether it has changed would cost every call half a second.
_SOURCES = ("lexicon.py", "grammar.py", "corpus.py", "vocabulary.py", "training.py")


def ensure_demo_model(progress: Progress = _SILENT) -> Path:
    """Return the folder of the demo checkpoint, training it first where the cache lacks it.

    Processes that ask at the same time wait for the one that trains. The folder appears under
    its name only once it is complete and on disk.

    Args:
        progress: Counts the training steps; silent by default.

    Returns:
        A Hugging Face checkpoint of `BertForSequenceClassification` in FP32, with its tokenizer.

    Raises:
        CacheNotWritableError: The model would have to be trained, but cannot be kept.
    """
    cache = cache_folder()
    folder = cache / f"demo-{_version()}"
    if folder.is_dir():
        return folder
    try:
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _make(folder, progress)
    except OSError as error:
        raise not_writable(cache, error.strerror) from error
    return folder


def _version() -> str:
    digest = hashlib.sha256()
    for name in _SOURCES:
        # As text, so that a checkout with other line ends has the same version.
        digest.update((Path(__file__).parent / name).read_text(encoding="utf-8").encode())
    return digest.hexdigest()[:12]


def _make(folder: Path, progress: Progress) -> None:
    # A sibling, since a rename is atomic only within one file system.
    unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", suffix=".part", dir=folder.parent))
    try:
        train_into(unfinished, Recipe(), progress)
        # mkdtemp makes the folder its owner's alone; a cache may be shared.
        unfinished.chmod(0o755)
        for path in (*unfinished.iterdir(), unfinished):
            sync(path)
        unfinished.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
