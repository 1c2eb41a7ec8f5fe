"""A stand-in of the Hugging Face hub: the part of its HTTP interface that uploads and downloads of models use."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKENS = {  # who they belong to, the organizations of that user, and what they may do
    "hf_write": ("me", ["team"], "write"),
    "hf_read": ("me", ["team"], "read"),
    "hf_other": ("somebody", [], "fineGrained"),
}


class Repository:
    """Commits, the oldest first: an id and the files, by path; an upload of weights goes by LFS."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: list[tuple[str, str, dict[str, bytes]]] = [("0" * 40, "initial commit", {".gitattributes": b"*"})]
        self.tags: dict[str, str] = {}

    def commit(self, message: str, files: dict[str, bytes]) -> str:
        commit = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits.append((commit, message, files))
        return commit

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][2]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        wanted = self.commits[-1][0] if revision == "main" else self.tags.get(revision, revision)
        return next(((commit, files) for commit, _, files in self.commits if commit == wanted), None)


class StandIn(ThreadingHTTPServer):
    """Serves repositories on a free port of this machine."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []  # method and path, in the order of their arrival
        self.refuse: dict[str, int] = {}  # the status of the answer to paths with a certain end
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "StandIn":
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    @property
    def user(self) -> tuple[str, list[str], str] | None:
        return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def answer(self, content: Any = b"", status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        headers = {"X_Error_Code": code, "X_Error_Message": message}
        self.answer({"error": message}, status, **{name: value for name, value in headers.items() if value})

    def serve(self) -> None:
        self.body = self.read()
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        for end, status in self.server.refuse.items():
            if path.endswith(end):
                return self.refuse(status, message="Internal error")
        for pattern, handle in ROUTES.items():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return handle(self, **found.groupdict())
        return self.refuse(404, message=f"{path} is not served")

    do_GET = do_HEAD = do_POST = do_PUT = serve  # noqa: N815

    def read(self) -> bytes:
        """Return the body of a request, which comes whole or in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def repository(self, repo: str, write: bool = False) -> Repository | None:
        """Return a repository that the user may see; without one, the request has been answered."""
        found, user = self.server.repositories.get(repo), self.user
        is_member = user is not None and repo.partition("/")[0] in (user[0], *user[1])
        if found is None or (found.private and not is_member):
            self.refuse(404 if user else 401, "RepoNotFound", "Repository not found")
        elif write and not (is_member and user[2] != "read"):
            self.refuse(403, message="Forbidden: you must have write access")
        else:
            return found
        return None

    def whoami(self) -> None:
        if self.user is None:
            return self.refuse(401, message="Invalid credentials in Authorization header")
        name, organizations, role = self.user
        token = {"displayName": f"{name}'s", "role": role}
        orgs = [{"name": organization} for organization in organizations]
        return self.answer({"name": name, "type": "user", "orgs": orgs, "auth": {"accessToken": token}})

    def create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        if self.user is None or asked["organization"] not in (self.user[0], *self.user[1]):
            return self.refuse(403, message=f'You don\'t have the rights to create a model under "{repo}"')
        if repo in self.server.repositories:
            return self.answer({"error": "You already created it", "url": f"{self.server.url}/{repo}"}, 409)
        # releases of huggingface_hub name it in two ways
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.server.repositories[repo] = Repository(private)
        return self.answer({"url": f"{self.server.url}/{repo}", "name": repo})

    def info(self, repo: str, revision: str = "main") -> None:
        if found := self.repository(repo):
            commit, files = found.at(revision) or ("", {})
            if not commit:
                return self.refuse(404, "RevisionNotFound", "Invalid rev id")
            siblings = [{"rfilename": name} for name in files]
            return self.answer({"id": repo, "sha": commit, "private": found.private, "siblings": siblings, "tags": []})
        return None

    def tree(self, repo: str, revision: str, folder: str | None = None) -> None:
        if found := self.repository(repo):
            _, files = found.at(revision) or ("", {})
            names = [name for name in files if name.startswith(folder or "")]
            if folder and not names:
                return self.refuse(404, "EntryNotFound", "Folder not found")
            entries = [{"type": "file", "oid": "0", "size": len(files[name]), "path": name} for name in names]
            return self.answer(entries)
        return None

    def validate_yaml(self) -> None:
        self.answer({"errors": [], "warnings": []})

    def preupload(self, repo: str) -> None:
        if self.repository(repo, write=True):
            files = json.loads(self.body)["files"]
            modes = ["lfs" if file["path"].endswith(".safetensors") else "regular" for file in files]
            self.answer(
                {
                    "files": [
                        {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
                        for file, mode in zip(files, modes, strict=True)
                    ]
                }
            )

    def lfs_batch(self, repo: str) -> None:
        if self.repository(repo, write=True):
            objects = json.loads(self.body)["objects"]
            for each in objects:
                if each["oid"] not in self.server.lfs:
                    each["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}}
            self.answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.lfs[oid] = self.body
        self.answer()

    def commit(self, repo: str) -> None:
        if not (found := self.repository(repo, write=True)):
            return
        files, message = dict(found.files), ""
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.lfs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = found.commit(message, files)
        self.answer({"commitUrl": f"{self.server.url}/{repo}/commit/{commit}", "commitOid": commit})

    def resolve(self, repo: str, revision: str, name: str) -> None:
        if found := self.repository(repo):
            commit, files = found.at(revision) or ("", {})
            if not commit:
                return self.refuse(404, "RevisionNotFound", "Invalid rev id")
            if name not in files:
                headers = {"X_Error_Code": "EntryNotFound", "X_Repo_Commit": commit}
                return self.answer({"error": "Entry not found"}, 404, **headers)
            etag = hashlib.sha256(files[name]).hexdigest()
            return self.answer(files[name], X_Repo_Commit=commit, ETag=f'"{etag}"')
        return None


_REPO, _REVISION = r"(?P<repo>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
ROUTES = {
    "HEAD /": Handler.answer,
    "GET /api/whoami-v2": Handler.whoami,
    "POST /api/repos/create": Handler.create,
    "POST /api/validate-yaml": Handler.validate_yaml,
    f"GET /api/models/{_REPO}": Handler.info,
    f"GET /api/models/{_REPO}/revision/{_REVISION}": Handler.info,
    f"GET /api/models/{_REPO}/tree/{_REVISION}(?:/(?P<folder>.+))?": Handler.tree,
    f"POST /api/models/{_REPO}/preupload/main": Handler.preupload,
    f"POST /{_REPO}.git/info/lfs/objects/batch": Handler.lfs_batch,
    "PUT /lfs/(?P<oid>[0-9a-f]{64})": Handler.lfs_put,
    f"POST /api/models/{_REPO}/commit/main": Handler.commit,
    f"(?:GET|HEAD) /{_REPO}/resolve/{_REVISION}/(?P<name>.+)": Handler.resolve,
}
