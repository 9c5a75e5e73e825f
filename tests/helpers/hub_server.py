"""A Hub on the loopback interface: enough of its HTTP API for the real ``huggingface_hub`` to push and load.

It keeps every commit, refuses what the Hub refuses, and fails on request:

    with HubServer() as hub:
        hub.fail("POST", "/commit/", status=503, times=2)
        ...
        hub.repositories["model", "tester/name"].files()
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from helpers.hub_cards import SDKS, front_matter_errors
from helpers.hub_repositories import Commit, Repository, Stored, git_oid

WRITE_TOKEN, READ_TOKEN = "hf_tester_may_write", "hf_tester_may_read"
USER = "tester"
TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".bin")


@dataclass
class Fault:
    """What is to go wrong with the next requests that fit."""

    method: str
    pattern: str
    status: int | None
    words: str
    times: int
    after: bool
    content: bytes | None = None
    hangs: bool = False
    truncates: bool = False
    drips: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class Answer(Exception):
    """An answer that ends a request."""

    def __init__(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.content, self.headers = status, content, headers or {}


def refusal(status: int, words: str, code: str | None = None) -> Answer:
    headers = {"X-Error-Message": words, **({"X-Error-Code": code} if code else {})}
    return Answer(status, {"error": words}, headers)


class HubServer(ThreadingHTTPServer):
    """The Hub; a context manager that serves while it is entered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.names_are_shared_by_types = False
        self.closing = threading.Event()
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def fail(
        self,
        method: str,
        pattern: str,
        status: int | None,
        words: str = "",
        *,
        times: int = 1,
        after: bool = False,
        **others: Any,
    ) -> None:
        """Makes requests fail: with a status, or, if that is None, by dropping the connection half-way.

        Args:
            method: Of the request, with ``pattern`` in its path.
            status: Status of the answer, which says ``words``; None: none.
            times: How many requests.
            after: Do what is asked first, so that only the answer is lost.
            others: ``content``: bytes to answer with; ``hangs``: never answer; ``drips``: answer for ever, byte
                after byte; ``truncates``: break off within the answer; ``headers`` of the answer.
        """
        self.faults.append(Fault(method, pattern, status, words, times, after, **others))

    def asked(self, pattern: str) -> list[str]:
        """Requests so far that fit, as "METHOD path"."""
        return [request for request in self.requests if re.search(pattern, request)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    """One connection to the Hub."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are written apart, and would wait for each other
    server: HubServer
    truncates = False

    def log_message(self, format: str, *words: Any) -> None:
        pass

    def respond(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.query = parse_qs(parts.query)
        self.server.requests.append(f"{self.command} {path}")
        fault = self.due_fault(path)
        length = int(self.headers.get("Content-Length") or 0)
        if fault is not None and fault.hangs:
            self.server.closing.wait(60.0)
            self.close_connection = True
            return
        if fault is not None and fault.status is None and not fault.after:
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        self.body = self.rfile.read(length)
        if fault is not None and fault.drips:
            self.drip()
            return
        try:
            if fault is not None and not fault.after:
                self.truncates = fault.truncates
                if fault.content is not None:
                    raise Answer(fault.status or 200, fault.content, fault.headers)
                refused = refusal(fault.status or 500, fault.words)
                raise Answer(refused.status, refused.content, {**refused.headers, **fault.headers})
            with self.server.lock:
                self.route(path)
            raise refusal(404, f"No such page: {path}")
        except Answer as answer:
            if fault is None or not fault.after:
                self.send(answer)
            elif fault.status is None:
                self.close_connection = True
            else:
                self.send(refusal(fault.status, fault.words))

    do_GET = do_HEAD = do_POST = do_PUT = respond

    def drip(self) -> None:
        """Sends headers at once, and then a byte now and then until the client hangs up."""
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not self.server.closing.wait(0.1):
            self.wfile.write(b" ")

    def due_fault(self, path: str) -> Fault | None:
        with self.server.lock:
            for fault in self.server.faults:
                if fault.times > 0 and fault.method == self.command and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None

    def send(self, answer: Answer) -> None:
        content = answer.content
        body = content if isinstance(content, bytes) else json.dumps(content).encode() if content is not None else b""
        self.send_response(answer.status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        announced = len(body) + 10 * self.truncates
        headers = {"Content-Type": kind, "Content-Length": str(announced), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if self.truncates:
            self.close_connection = True

    # ----------------------------------------------------------------------------------------------------- who and what

    def route(self, path: str) -> None:
        for method, pattern, handle in ROUTES:
            if method == self.command.replace("HEAD", "GET") and (match := re.fullmatch(pattern, path)):
                handle(self, **match.groupdict())

    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def check_token(self) -> None:
        if self.token() not in (WRITE_TOKEN, READ_TOKEN):
            raise refusal(401, "Invalid credentials in Authorization header")

    def check_right_to_write(self, name: str) -> None:
        self.check_token()
        namespace = name.split("/")[0]
        if namespace != USER:
            raise refusal(403, f'You don\'t have the rights to write under the namespace "{namespace}"')
        if self.token() != WRITE_TOKEN:
            raise refusal(403, "This token has no write permission")

    def json(self) -> Any:
        return json.loads(self.body)

    def repository(self, types: str, name: str) -> Repository:
        found = self.server.repositories.get((TYPES[types], name))
        may_see = found is not None and (not found.private or self.token() in (WRITE_TOKEN, READ_TOKEN))
        if found is None or not may_see:
            raise refusal(404, "Repository not found", "RepoNotFound")
        return found

    def commit_at(self, repository: Repository, revision: str) -> Commit:
        found = repository.at(revision)
        if found is None:
            raise refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def whoami(self) -> None:
        self.check_token()
        role = "write" if self.token() == WRITE_TOKEN else "read"
        token = {"displayName": "test", "role": role}
        raise Answer(200, {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": token}})

    def create(self) -> None:
        asked = self.json()
        kind, name = asked.get("type", "model"), f"{asked.get('organization') or USER}/{asked['name']}"
        self.check_right_to_write(name)
        if kind == "space" and asked.get("sdk") not in SDKS:
            raise refusal(400, f"sdk must be one of {', '.join(SDKS)}")
        prefix = "" if kind == "model" else f"{kind}s/"
        taken = {
            (other, held)
            for other, held in self.server.repositories
            if held == name and (other == kind or self.server.names_are_shared_by_types)
        }
        if taken:
            words = f"You already created this {kind} repo"
            raise Answer(409, {"error": words, "url": f"{self.server.url}/{prefix}{name}"}, {"X-Error-Message": words})
        repository = Repository(asked.get("visibility") == "private" or asked.get("private") is True, asked.get("sdk"))
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repository.branches["main"] = [Commit("initial commit", {".gitattributes": Stored(attributes.encode(), False)})]
        self.server.repositories[kind, name] = repository
        raise Answer(200, {"url": f"{self.server.url}/{prefix}{name}", "name": name, "private": repository.private})

    def create_branch(self, types: str, name: str, branch: str) -> None:
        self.check_right_to_write(name)
        repository = self.repository(types, name)
        if branch in repository.branches:
            raise refusal(409, "Reference already exists")
        repository.branches[branch] = list(repository.branches["main"])
        raise Answer(201, {})

    def validate_yaml(self) -> None:
        self.check_token()
        asked = self.json()
        errors = front_matter_errors(asked["content"], asked["repoType"])
        content = {"errors": [{"message": error} for error in errors], "warnings": []}
        raise Answer(400 if errors else 200, content)

    # ---------------------------------------------------------------------------------------------------------- pushing

    def preupload(self, types: str, name: str, revision: str) -> None:
        repository = self.repository(types, name)
        self.check_right_to_write(name)
        stored = self.commit_at(repository, revision).files
        files = []
        for asked in self.json()["files"]:
            base64.b64decode(asked["sample"], validate=True)
            path, held = asked["path"], stored.get(asked["path"])
            mode = "lfs" if path.endswith(LFS_SUFFIXES) or asked["size"] > 10_000_000 else "regular"
            known = {"oid": held.etag} if held is not None else {}
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        raise Answer(200, {"files": files})

    def lfs_batch(self, name: str, kind: str | None = None) -> None:
        self.repository(kind or "models", name)
        self.check_right_to_write(name)
        objects = []
        for asked in self.json()["objects"]:
            one: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.server.large_files:
                one["actions"] = {
                    "upload": {"href": f"{self.server.url}/storage/{asked['oid']}", "header": {}},
                    "verify": {"href": f"{self.server.url}/verify", "header": {}},
                }
            objects.append(one)
        raise Answer(200, {"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise refusal(400, "The content is not what was announced")
        self.server.large_files[oid] = self.body
        raise Answer(200)

    def verify(self) -> None:
        asked = self.json()
        held = self.server.large_files.get(asked["oid"])
        raise Answer(200, {}) if held is not None and len(held) == asked["size"] else refusal(404, "Not uploaded")

    def commit(self, types: str, name: str, revision: str) -> None:
        repository = self.repository(types, name)
        self.check_right_to_write(name)
        if revision not in repository.branches:
            raise refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        if header["key"] != "header":
            raise refusal(400, "The first line must be the header")
        before = repository.branches[revision][-1]
        files = dict(before.files)
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = Stored(base64.b64decode(value["content"], validate=True), lfs=False)
            elif operation["key"] == "lfsFile":
                content = self.server.large_files.get(value["oid"])
                if content is None or len(content) != value["size"]:
                    raise refusal(400, f"LFS object of {value['path']} was not uploaded")
                files[value["path"]] = Stored(content, lfs=True)
            else:
                raise refusal(400, f"Unknown operation {operation['key']}")
        commit = Commit(header["value"]["summary"], files, before.oid)
        repository.branches[revision].append(commit)
        url = f"{self.server.url}/{'' if types == 'models' else types + '/'}{name}/commit/{commit.oid}"
        raise Answer(200, {"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    # ---------------------------------------------------------------------------------------------------------- loading

    def info(self, types: str, name: str, revision: str = "main") -> None:
        repository = self.repository(types, name)
        commit = self.commit_at(repository, revision)
        found = {
            "_id": "0" * 24,
            "id": name,
            "modelId": name,
            "author": name.split("/")[0],
            "sha": commit.oid,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "createdAt": "2026-01-01T00:00:00.000Z",
            "lastModified": "2026-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }
        raise Answer(200, found)

    def tree(self, types: str, name: str, revision: str, folder: str | None = None) -> None:
        files = self.commit_at(self.repository(types, name), revision).files
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        prefix = f"{folder.strip('/')}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, file in sorted(files.items()):
            if not path.startswith(prefix):
                continue
            *parents, _ = path.removeprefix(prefix).split("/")
            for depth in range(len(parents) if recursive else min(1, len(parents))):
                parent = prefix + "/".join(parents[: depth + 1])
                entries[parent] = {"type": "directory", "path": parent, "size": 0, "oid": git_oid(parent.encode())}
            if recursive or not parents:
                entries[path] = file.entry(path)
        if prefix and not entries:
            raise refusal(404, f"{folder} does not exist", "EntryNotFound")
        raise Answer(200, list(entries.values()))

    def paths_info(self, types: str, name: str, revision: str) -> None:
        files = self.commit_at(self.repository(types, name), revision).files
        asked = self.json() if self.body.startswith(b"{") else parse_qs(self.body.decode())
        paths = [asked["paths"]] if isinstance(asked["paths"], str) else asked["paths"]
        found = []
        for path in paths:
            if path in files:
                found.append(files[path].entry(path))
            elif any(held.startswith(f"{path}/") for held in files):
                found.append({"type": "directory", "path": path, "size": 0, "oid": git_oid(path.encode())})
        raise Answer(200, found)

    def resolve(self, name: str, revision: str, path: str, kind: str | None = None) -> None:
        commit = self.commit_at(self.repository(kind or "models", name), revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            words = "Entry not found"
            raise Answer(404, {"error": words}, {**headers, "X-Error-Code": "EntryNotFound", "X-Error-Message": words})
        file = commit.files[path]
        headers["ETag"] = f'"{file.etag}"'
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            raise Answer(200, file.content, headers)
        first, last = int(asked[1]), min(int(asked[2] or len(file.content) - 1), len(file.content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(file.content)}"
        raise Answer(206, file.content[first : last + 1], headers)


_NAME, _TYPES = r"(?P<name>[^/]+/[^/]+)", r"(?P<types>models|datasets|spaces)"
_PREFIX = r"(?:(?P<kind>datasets|spaces)/)?"
ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("GET", f"/api/{_TYPES}/{_NAME}", Handler.info),
    ("GET", f"/api/{_TYPES}/{_NAME}/revision/(?P<revision>.+)", Handler.info),
    ("POST", f"/api/{_TYPES}/{_NAME}/branch/(?P<branch>.+)", Handler.create_branch),
    ("POST", f"/api/{_TYPES}/{_NAME}/preupload/(?P<revision>.+)", Handler.preupload),
    ("POST", f"/api/{_TYPES}/{_NAME}/commit/(?P<revision>.+)", Handler.commit),
    ("GET", f"/api/{_TYPES}/{_NAME}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?", Handler.tree),
    ("POST", f"/api/{_TYPES}/{_NAME}/paths-info/(?P<revision>.+)", Handler.paths_info),
    ("POST", rf"/{_PREFIX}{_NAME}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", "/storage/(?P<oid>[0-9a-f]{64})", Handler.store),
    ("POST", "/verify", Handler.verify),
    ("GET", rf"/{_PREFIX}{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
)
