"""The Hugging Face hub in memory, behind its own client: it takes and refuses what the real one does.

Of its HTTP interface (https://huggingface.co/docs/hub/api): creating repositories, upload, commits, tags, downloads.
"""

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import huggingface_hub
import yaml

_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
# licences that the hub's card may name
_LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "other", "unknown")


@dataclass
class Repository:
    """Commits by name, tags, and who may see it."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    head: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, changed: dict[str, bytes]) -> str:
        files = {**self.commits.get(self.head, {}), **changed}
        self.head = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[self.head] = files
        return self.head

    def resolve(self, revision: str) -> str | None:
        return (
            self.head if revision == "main" else self.tags.get(revision, revision if revision in self.commits else None)
        )


class Hub:
    """All repositories; ``tokens`` says whose each token is."""

    def __init__(self, tokens: dict[str, str]) -> None:
        self.tokens = tokens
        self.repositories: dict[str, Repository] = {}

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request."""
        path = request.url.path
        routes = (
            ("POST", r"/api/repos/create", self._create),
            ("POST", r"/api/validate-yaml", self._validate),
            ("POST", rf"/api/models/{_REPO}/preupload/main", self._preupload),
            ("POST", rf"/api/models/{_REPO}/commit/main", self._commit),
            ("POST", rf"/api/models/{_REPO}/tag/(?P<revision>[^/]+)", self._tag),
            ("DELETE", rf"/api/models/{_REPO}/tag/(?P<tag>[^/]+)", self._untag),
            ("GET", rf"/api/models/{_REPO}/refs", self._refs),
            ("GET", rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)", self._tree),
            ("GET", rf"/api/models/{_REPO}(/revision/(?P<revision>[^/]+))?", self._info),
            ("GET|HEAD", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", self._file),
        )
        for methods, pattern, answer in routes:
            if request.method in methods.split("|") and (match := re.fullmatch(pattern, path)):
                return answer(request, **match.groupdict())
        return httpx2.Response(404, json={"error": f"no such address: {request.method} {path}"})

    def _user(self, request: httpx2.Request) -> str | None:
        return self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))

    def _refusal(self, request: httpx2.Request, repo: str, *, write: bool) -> httpx2.Response | None:
        user, found = self._user(request), self.repositories.get(repo)
        if found is None or (found.private and user != repo.split("/")[0]):
            # a private one of others is as if it did not exist
            code = 401 if user is None else 404
            return httpx2.Response(
                code, headers={"X-Error-Code": "RepoNotFound"}, json={"error": "Repository not found"}
            )
        if write and user != repo.split("/")[0]:
            return httpx2.Response(403 if user else 401, json={"error": "You do not have the rights to write"})
        return None

    def _create(self, request: httpx2.Request) -> httpx2.Response:
        body, user = json.loads(request.content), self._user(request)
        if user is None:
            return httpx2.Response(401, json={"error": "Invalid username or password."})
        repo = f"{body['organization'] or user}/{body['name']}"
        if repo.split("/")[0] != user:
            return httpx2.Response(403, json={"error": f"You don't have the rights to create a model under {repo}"})
        if repo in self.repositories:
            return httpx2.Response(
                409, json={"error": "You already created this model repo", "url": f"https://huggingface.co/{repo}"}
            )
        self.repositories[repo] = Repository(private=body.get("visibility") == "private" or bool(body.get("private")))
        self.repositories[repo].commit({".gitattributes": b""})
        return httpx2.Response(200, json={"url": f"https://huggingface.co/{repo}", "name": repo, "id": "0"})

    def _validate(self, request: httpx2.Request) -> httpx2.Response:
        match = re.match(r"---\n(.*?)\n---", json.loads(request.content)["content"], re.DOTALL)
        card = yaml.safe_load(match[1]) if match else {}
        if card.get("license") not in (None, *_LICENSES):
            return httpx2.Response(400, json={"errors": [{"message": '"license" must be one of the list'}]})
        return httpx2.Response(200, json={"errors": [], "warnings": []})

    def _preupload(self, request: httpx2.Request, repo: str) -> httpx2.Response:
        files = json.loads(request.content)["files"]
        modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
        return self._refusal(request, repo, write=True) or httpx2.Response(200, json={"files": modes})

    def _commit(self, request: httpx2.Request, repo: str) -> httpx2.Response:
        if refusal := self._refusal(request, repo, write=True):
            return refusal
        operations = [json.loads(line) for line in request.content.splitlines()]
        files = {
            op["value"]["path"]: base64.b64decode(op["value"]["content"]) for op in operations if op["key"] == "file"
        }
        commit = self.repositories[repo].commit(files)
        return httpx2.Response(
            200, json={"commitUrl": f"https://huggingface.co/{repo}/commit/{commit}", "commitOid": commit}
        )

    def _tag(self, request: httpx2.Request, repo: str, revision: str) -> httpx2.Response:
        found, tag = self.repositories.get(repo), json.loads(request.content)["tag"]
        if (refusal := self._refusal(request, repo, write=True)) or found is None:
            return refusal or httpx2.Response(404)
        if tag in found.tags:
            return httpx2.Response(409, json={"error": f"Tag {tag} exists"})
        if (commit := found.resolve(revision)) is None:
            return httpx2.Response(404, headers={"X-Error-Code": "RevisionNotFound"})
        found.tags[tag] = commit
        return httpx2.Response(201, json={})

    def _untag(self, request: httpx2.Request, repo: str, tag: str) -> httpx2.Response:
        if refusal := self._refusal(request, repo, write=True):
            return refusal
        if self.repositories[repo].tags.pop(tag, None) is None:
            return httpx2.Response(404, headers={"X-Error-Code": "RevisionNotFound"})
        return httpx2.Response(204)

    def _refs(self, request: httpx2.Request, repo: str) -> httpx2.Response:
        if refusal := self._refusal(request, repo, write=False):
            return refusal
        found = self.repositories[repo]
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": commit} for tag, commit in found.tags.items()]
        branches = [{"name": "main", "ref": "refs/heads/main", "targetCommit": found.head}]
        return httpx2.Response(200, json={"branches": branches, "converts": [], "tags": tags})

    def _info(self, request: httpx2.Request, repo: str, revision: str | None) -> httpx2.Response:
        if refusal := self._refusal(request, repo, write=False):
            return refusal
        found = self.repositories[repo]
        if (commit := found.resolve(revision or "main")) is None:
            return httpx2.Response(404, headers={"X-Error-Code": "RevisionNotFound"})
        files: list[dict[str, Any]] = [
            {"rfilename": name, "size": len(data)} for name, data in found.commits[commit].items()
        ]
        return httpx2.Response(
            200, json={"id": repo, "sha": commit, "siblings": files, "tags": [], "private": found.private}
        )

    def _tree(self, request: httpx2.Request, repo: str, revision: str) -> httpx2.Response:
        if refusal := self._refusal(request, repo, write=False):
            return refusal
        found = self.repositories[repo]
        files = found.commits[found.resolve(revision) or ""]
        listed = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in files.items()
        ]
        return httpx2.Response(200, json=listed)

    def _file(self, request: httpx2.Request, repo: str, revision: str, file: str) -> httpx2.Response:
        if refusal := self._refusal(request, repo, write=False):
            return refusal
        found = self.repositories[repo]
        commit = found.resolve(revision)
        if commit is None:
            return httpx2.Response(404, headers={"X-Error-Code": "RevisionNotFound"})
        if (data := found.commits[commit].get(file)) is None:
            return httpx2.Response(404, headers={"X-Error-Code": "EntryNotFound"})
        headers = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Content-Length": str(len(data)),
        }
        return httpx2.Response(200, headers=headers, content=data if request.method == "GET" else b"")


@contextlib.contextmanager
def simulated(hub: Hub) -> Iterator[Hub]:
    """The hub in the place of the network for huggingface_hub, in this process."""
    factory = huggingface_hub.utils._http.default_client_factory
    huggingface_hub.set_client_factory(
        lambda: httpx2.Client(transport=httpx2.MockTransport(hub.handle), follow_redirects=True)
    )
    try:
        yield hub
    finally:
        huggingface_hub.set_client_factory(factory)
