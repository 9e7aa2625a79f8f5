"""Find every name of TensorRT's Python API that a source text uses.

Types are followed from where they are sure: the module and its classes, what methods return, and
parameters and fields that are annotated `Any` and called what TensorRT's objects are called here.
A parameter annotated otherwise is an object of this project, whatever its name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

MODULE = "module"
_OURS = "ours"
_CLASS = "class "
_LIST = "list of "

# What this project calls TensorRT's objects.
_NAMED = {
    "trt": MODULE,
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
}

# What methods return; lists of the API tell names only.
_RETURNS = {
    ("Builder", "create_network"): "INetworkDefinition",
    ("Builder", "create_builder_config"): "IBuilderConfig",
    ("Builder", "create_optimization_profile"): "IOptimizationProfile",
    ("INetworkDefinition", "get_input"): "ITensor",
    ("INetworkDefinition", "get_output"): "ITensor",
    ("IBuilderConfig", "create_timing_cache"): "ITimingCache",
    ("IBuilderConfig", "get_timing_cache"): "ITimingCache",
    ("OnnxParser", "get_error"): "ParserError",
    ("Runtime", "deserialize_cuda_engine"): "ICudaEngine",
    ("ICudaEngine", "create_execution_context"): "IExecutionContext",
    ("ICudaEngine", "create_runtime_config"): "IRuntimeConfig",
    ("ICudaEngine", "create_engine_inspector"): "EngineInspector",
}

# Functions that give the module.
_IMPORTERS = {"import_flavour", "_import", "import_module"}


@dataclass(frozen=True)
class Use:
    """A name that a source text relies on.

    Attributes:
        owner: The class that must have it; `MODULE` for what the module must have.
        name: The name.
        line: Where.
        guards: Names that the same function tests the presence of.
    """

    owner: str
    name: str
    line: int
    guards: frozenset[str]

    def missing(self, apis: Mapping[str, Mapping[str, Iterable[str]]]) -> list[str]:
        """The releases that lack the name and are not told apart from those that have it.

        A test for something else that a release lacks as well tells it apart too.
        """
        return [
            release
            for release, api in apis.items()
            if not _has(api, self.owner, self.name)
            and not any(_lacks(api, guard) for guard in self.guards)
        ]


def find_uses(source: str) -> list[Use]:
    """Every use of TensorRT's API in a source text, in order of lines."""
    tree = ast.parse(source)
    finder = _Finder()
    finder.visit(tree)  # learns fields, which methods may use above their assignment
    finder.uses.clear()
    finder.visit(tree)
    return sorted(set(finder.uses), key=lambda use: (use.line, use.name))


@dataclass
class _Finder(ast.NodeVisitor):
    fields: dict[str, str | None] = field(default_factory=dict)
    scopes: list[dict[str, str | None]] = field(default_factory=lambda: [{}])
    guards: list[frozenset[str]] = field(default_factory=lambda: [frozenset()])
    uses: list[Use] = field(default_factory=list)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name in {"tensorrt", "tensorrt_rtx"}:
                self.scopes[-1][alias.asname or alias.name] = MODULE

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        bases = [self._infer(base) or "" for base in node.bases]
        for base in (base for base in bases if base.startswith(_CLASS)):
            for method in node.body:
                # Overriding what a release does not call would do nothing there.
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    self._use(base, method.name, method)
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                self.fields[part.target.id] = _declared(part.target.id, part.annotation)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        self.scopes.append({each.arg: _declared(each.arg, each.annotation) for each in arguments})
        self.guards.append(self.guards[-1] | frozenset(_tested(node)))
        self.generic_visit(node)
        self.scopes.pop()
        self.guards.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            self._bind(target, self._infer(node.value))

    def visit_For(self, node: ast.For) -> None:
        self._bind_item(node.target, node.iter)
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._visit_items(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._visit_items(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        owner = self._infer(node.value)
        if owner and not node.attr.startswith("__"):
            self._use(owner, node.attr, node)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        if _is_getattr(node) and len(node.args) == 2:
            owner, name = self._infer(node.args[0]), node.args[1]
            if owner and isinstance(name, ast.Constant):
                self._use(owner, str(name.value), node)

    def _bind(self, target: ast.expr, found: str | None) -> None:
        if isinstance(target, ast.Name):
            self.scopes[-1][target.id] = found
        elif isinstance(target, ast.Attribute) and found is not None:
            self.fields[target.attr] = found

    def _visit_items(self, node: ast.ListComp | ast.GeneratorExp) -> None:
        for part in node.generators:
            self._bind_item(part.target, part.iter)
        self.generic_visit(node)

    def _bind_item(self, target: ast.expr, items: ast.expr) -> None:
        found = self._infer(items)
        if found is not None and found.startswith(_LIST):
            self._bind(target, found.removeprefix(_LIST))

    def _use(self, owner: str, name: str, node: ast.AST) -> None:
        if owner != _OURS and not owner.startswith(_LIST):
            line = getattr(node, "lineno", 0)
            self.uses.append(Use(owner.removeprefix(_CLASS), name, line, self.guards[-1]))

    def _infer(self, node: ast.expr) -> str | None:
        """The API class of an expression, `class X` for a class itself, or None."""
        if isinstance(node, ast.Name):
            return next((s[node.id] for s in reversed(self.scopes) if node.id in s), None)
        if isinstance(node, ast.Attribute):
            owner = self._infer(node.value)
            if owner == MODULE:
                return _CLASS + node.attr
            return self.fields.get(node.attr) if owner in {None, _OURS} else None
        if isinstance(node, ast.ListComp):
            item = self._infer(node.elt)
            return None if item is None else _LIST + item
        if not isinstance(node, ast.Call):
            return None
        called = node.func
        if _is_getattr(node) and isinstance(node.args[1], ast.Constant):
            return _CLASS + node.args[1].value if self._infer(node.args[0]) == MODULE else None
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name in _IMPORTERS:
            return MODULE
        if isinstance(called, ast.Attribute):
            owner = self._infer(called.value)
            if owner == MODULE:
                return called.attr
            return _RETURNS.get((owner or "", called.attr))
        return None


def _declared(name: str, annotation: ast.expr | None) -> str | None:
    if annotation is None or (isinstance(annotation, ast.Name) and annotation.id == "Any"):
        return _NAMED.get(name.strip("_"))
    return _OURS


def _is_getattr(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) > 1


def _tested(function: ast.FunctionDef) -> Iterator[str]:
    """Names whose presence a function tests: hasattr, getattr with a default, `in dir(…)`."""
    for node in ast.walk(function):
        literal: ast.expr | None = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            needed = {"hasattr": 2, "getattr": 3}.get(node.func.id)
            literal = node.args[1] if needed is not None and len(node.args) == needed else None
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In):
            literal = node.left
        if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
            yield literal.value


def _has(api: Mapping[str, Iterable[str]], owner: str, name: str) -> bool:
    return name in api if owner == MODULE else name in api.get(owner, ())


def _lacks(api: Mapping[str, Iterable[str]], name: str) -> bool:
    """Whether a release has a name nowhere, neither as a class nor as a member."""
    return name not in api and not any(name in members for members in api.values())
