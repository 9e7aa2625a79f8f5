"""What no module of the three packages may do with a file: run it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for package in ("calib_data", "export", "deploy")
    for path in (ROOT / package).rglob("*.py")
)

# Reading any of these formats can run what the file says.
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {
    *("torch.load", "torch.save", "torch.jit.load", "torch.jit.save", "torch.hub.load"),
    *("pd.read_pickle", "pandas.read_pickle", "yaml.unsafe_load", "yaml.full_load"),
    *("eval", "exec", "os.system", "np.save", "numpy.save"),
}
# A keyword, and the one value that it may have; None where it may not be given.
KEYWORDS = {
    "trust_remote_code": False,
    "allow_pickle": False,
    "weights_only": True,
    "shell": False,
}


def called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def offences(tree: ast.AST, own_flags: frozenset[str] = frozenset()) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
            yield from (f"imports {name}" for name in names & MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield f"imports {node.module}"
        elif isinstance(node, ast.Call):
            name = called(node)
            if name in CALLS:
                yield f"calls {name}"
            if name == "yaml.load" and ast.unparse(node.args[-1]) not in ("Loader", "SafeLoader"):
                yield "calls yaml.load with another loader"
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            for key, allowed in KEYWORDS.items():
                value = given.get(key)
                if value is None or name.rpartition(".")[2] in own_flags:
                    continue
                if not (isinstance(value, ast.Constant) and value.value is allowed):
                    yield f"{name}({key}={ast.unparse(value)})"
            if name.endswith(("np.load", "numpy.load")) and "allow_pickle" not in given:
                yield f"{name} without allow_pickle=False"


# Ours: a flag of the user's, which `test_checkpoint` and the keyword `weights_only` hold.
OWN = frozenset(
    {
        "load_checkpoint",
        "read_checkpoint",
        "label_names",
        "local_folder",
        "_check_folder",
        "_check_weights",
    }
)


def test_nothing_that_is_read_is_run():
    found = [
        f"{path.relative_to(ROOT)}: {offence}"
        for path in SOURCES
        for offence in offences(ast.parse(path.read_text(encoding="utf-8")), OWN)
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "eval(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "auto.from_pretrained(folder, trust_remote_code=True)",
        "auto.from_pretrained(folder, weights_only=flag)",
        "yaml.load(text, yaml.Loader)",
        "subprocess.run(command, shell=True)",
    ],
)
def test_the_test_sees_it(source):
    assert list(offences(ast.parse(source)))


def test_every_model_is_loaded_without_its_code():
    """`trust_remote_code=False` stands at each call that could run a checkpoint's own modules."""
    silent = [
        f"{path.relative_to(ROOT)}: {called(node)}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and called(node).endswith("from_pretrained")
        and "trust_remote_code" not in {keyword.arg for keyword in node.keywords}
    ]
    assert silent == []


def test_plans_are_deserialised_in_two_places_alone():
    """A build's own, still in memory; and what `load_plan` has held against the manifest."""
    places = {
        f"{path.relative_to(ROOT)}: {called(node).rpartition('.')[2]}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if called(node).endswith(("deserialize_cuda_engine", "TrtEngine", "inspect_plan"))
    }
    assert places == {
        "deploy/engine/inspector.py: deserialize_cuda_engine",
        "deploy/engine/layer_report.py: inspect_plan",  # of `BuiltEngine.plan`
        "deploy/engine/opening.py: TrtEngine",  # of `load_plan`'s answer
        "deploy/engine/trt_engine.py: deserialize_cuda_engine",
    }
