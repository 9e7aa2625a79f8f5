"""A Hugging Face hub on 127.0.0.1, which keeps its repositories in memory: `Hub`.

It answers what `huggingface_hub` and `datasets` ask to load a model and a data set: facts about a
repository, its tree, its files, and the dataset viewer's summary, which is asked of a host of its
own and comes here by way of `proxies`. Large files lie behind a redirect, as they do on the hub,
and are served whole: of Xet, the hub's storage in chunks, there is nothing here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

# What `git lfs` tracks in a repository of the hub.
_LARGE = (".safetensors", ".parquet", ".bin", ".onnx")

# An id has slashes of its own, so that only what comes after it tells where it ends.
_INFO = re.compile(
    r"/api/(?P<kind>model|dataset)s/(?P<id>[^/]+/[^/]+)"
    r"(?:/(?P<what>revision|tree|paths-info)/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?"
)
_FILE = re.compile(
    r"/(?P<kind>datasets/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
)


@dataclass(frozen=True)
class Repository:
    """A repository of one commit.

    Attributes:
        kind: "model" or "dataset".
        id: As `--model` takes it: "org/name".
        files: By their paths.
        token: Who shows it may read; None lets everybody.
        viewed: What the dataset viewer says of each configuration; empty for a model.
    """

    kind: str
    id: str
    files: Mapping[str, bytes]
    token: str | None = None
    viewed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        listed = "".join(f"{path} {_sha256(self.files[path])}\n" for path in sorted(self.files))
        return hashlib.sha1(listed.encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """What a request is answered with."""

    status: HTTPStatus
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Hub:
    """Serves repositories while its context is open.

    Attributes:
        requests: Method and path of each request that came in.
        tokens: What the requests showed as a token.
    """

    def __init__(
        self, repositories: Iterable[Repository] = (), always: Answer | None = None
    ) -> None:
        """Have it answer on a port of its own choice.

        Args:
            repositories: What it has.
            always: What it says to everybody, as one does that is down; None for what is asked.
        """
        self.requests: list[str] = []
        self.tokens: set[str] = set()
        self._repositories = {(each.kind, each.id): each for each in repositories}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                _, _, token = self.headers.get("Authorization", "").partition("Bearer ")
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.requests.append(f"{self.command} {self.path}")
                hub.tokens |= {token} - {""}
                answer = always or hub._answer(self.path, body.decode(), token)
                self.send_response(answer.status)
                for name, value in {"Content-Length": len(answer.body), **answer.headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            do_HEAD = do_POST = do_CONNECT = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                """`requests` keeps them."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def _store(self) -> str:
        # Another host, as on the hub: a client keeps its token from it.
        return f"http://localhost:{self._server.server_port}/lfs"

    @property
    def proxies(self) -> dict[str, str]:
        """Environment that sends here what is meant for any other host, so that nothing leaves."""
        return {
            **{f"{kind}_proxy": self.endpoint for kind in ("http", "https", "all")},
            "no_proxy": "127.0.0.1",
        }

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, address: str, body: str, token: str) -> Answer:
        url = urlsplit(address)
        if found := _FILE.fullmatch(url.path):
            kind = "dataset" if found["kind"] else "model"
        elif found := _INFO.fullmatch(url.path):
            kind = found["kind"]
        elif url.path == "/info":
            return self._viewed(parse_qs(url.query)["dataset"][0])
        elif url.path.startswith("/lfs/"):
            return self._stored(url.path.removeprefix("/lfs/"))
        else:
            return _refused(HTTPStatus.NOT_FOUND, "")
        repository = self._repositories.get((kind, found["id"]))
        if repository is None or repository.token not in (None, token):
            # To a stranger, one that is private and one that is not there look the same.
            stranger = HTTPStatus.NOT_FOUND if token else HTTPStatus.UNAUTHORIZED
            return _refused(stranger, "RepoNotFound")
        if found["revision"] not in (None, "main", repository.commit):
            return _refused(HTTPStatus.NOT_FOUND, "RevisionNotFound")
        path = unquote(found["path"] or "")
        if "what" not in found.groupdict():
            return _file(repository, path, self._store)
        if found["what"] == "tree":
            return _json(_tree(repository, path, "recursive=true" in url.query.lower()))
        if found["what"] == "paths-info":
            return _json(_entries(repository, parse_qs(body)["paths"]))
        return _json(_facts(repository))

    def _viewed(self, dataset: str) -> Answer:
        repository = self._repositories.get(("dataset", dataset))
        if repository is None:
            return _refused(HTTPStatus.NOT_FOUND, "")
        content = {"partial": False, "pending": [], "failed": []}
        return _json(
            {**content, "dataset_info": repository.viewed}, {"X-Revision": repository.commit}
        )

    def _stored(self, digest: str) -> Answer:
        for repository in self._repositories.values():
            for content in repository.files.values():
                if _sha256(content) == digest:
                    return Answer(HTTPStatus.OK, content)
        return _refused(HTTPStatus.NOT_FOUND, "")


def _facts(repository: Repository) -> dict[str, Any]:
    return {
        "id": repository.id,
        "sha": repository.commit,
        "private": repository.token is not None,
        "siblings": [{"rfilename": path} for path in repository.files],
    }


def _tree(repository: Repository, folder: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    below = [path for path in _with_folders(repository) if path.startswith(prefix)]
    return _entries(
        repository, [path for path in below if recursive or "/" not in path[len(prefix) :]]
    )


def _entries(repository: Repository, paths: Iterable[str]) -> list[dict[str, Any]]:
    """Of each path that is there; the others are left out, as the hub does it."""
    found: list[dict[str, Any]] = []
    for path in set(paths) & _with_folders(repository):
        content = repository.files.get(path)
        if content is None:
            found.append({"type": "directory", "path": path, "oid": _git_id(b""), "size": 0})
            continue
        entry = {"type": "file", "path": path, "oid": _git_id(content), "size": len(content)}
        if path.endswith(_LARGE):
            entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
        found.append(entry)
    return sorted(found, key=lambda entry: entry["path"])


def _with_folders(repository: Repository) -> set[str]:
    parts = [path.split("/") for path in repository.files]
    return {"/".join(names[: i + 1]) for names in parts for i in range(len(names))}


def _file(repository: Repository, path: str, store: str) -> Answer:
    commit = {"X-Repo-Commit": repository.commit}
    content = repository.files.get(path)
    if content is None:
        return _refused(HTTPStatus.NOT_FOUND, "EntryNotFound", commit)
    if not path.endswith(_LARGE):
        return Answer(HTTPStatus.OK, content, {**commit, "ETag": f'"{_git_id(content)}"'})
    digest = _sha256(content)
    linked = {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
    return Answer(HTTPStatus.FOUND, b"", {**commit, **linked, "Location": f"{store}/{digest}"})


def _json(content: Any, headers: Mapping[str, str] | None = None) -> Answer:
    kind = {"Content-Type": "application/json"}
    return Answer(HTTPStatus.OK, json.dumps(content).encode(), {**kind, **(headers or {})})


def _refused(status: HTTPStatus, code: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, b"", {"X-Error-Code": code, **(headers or {})})


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
