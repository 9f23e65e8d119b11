"""A server that speaks what huggingface_hub asks of the Hugging Face Hub: what a repository holds, and its files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Its files by revision; a revision is also known by its commit. What is `gated` can be listed and not be had."""

    revisions: dict[str, dict[str, bytes]]
    gated: bool = False

    def commit(self, revision: str) -> str:
        return hashlib.sha1(repr((revision, self.revisions[revision])).encode()).hexdigest()

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        for name, files in self.revisions.items():
            if revision in (name, self.commit(name)):
                return self.commit(name), files
        return None


@dataclass
class Hub:
    """The repositories of a server, and every request that it got."""

    url: str
    repositories: dict[str, Repository]
    asked: list[str] = field(default_factory=list)
    broken: int = 0  # the status of every answer, where not 0

    def downloaded(self) -> list[str]:
        """Files whose bytes were asked for."""
        return [line.split("/", 5)[-1] for line in self.asked if line.startswith("GET ") and "/resolve/" in line]


@contextmanager
def serve(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """Serve repositories until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if hub.broken:
                return self.refuse(hub.broken, None)
            listing = path.startswith("/api/models/")
            owner, name, *rest = path.removeprefix("/api/models").lstrip("/").split("/")
            repository = repositories.get(f"{owner}/{name}")
            if repository is None:
                return self.refuse(401, "RepoNotFound")
            _, revision, file = self.split("/".join(rest), repository)
            if (found := repository.files(revision)) is None:
                return self.refuse(404, "RevisionNotFound")
            commit, files = found
            if listing:
                told = {"id": f"{owner}/{name}", "sha": commit, "siblings": [{"rfilename": each} for each in files]}
                return self.answer(json.dumps(told).encode(), commit)
            if repository.gated:
                return self.refuse(403, "GatedRepo")
            if file not in files:
                return self.refuse(404, "EntryNotFound", commit)
            return self.answer(files[file], commit)

        def split(self, rest: str, repository: Repository) -> tuple[str, str, str]:
            """`resolve/<revision>/<file>` or `revision/<revision>`; a revision may hold slashes."""
            verb, _, tail = rest.partition("/")
            known = [*repository.revisions, *map(repository.commit, repository.revisions)]
            revision = next((each for each in known if f"{tail}/".startswith(f"{each}/")), tail.partition("/")[0])
            return verb, revision or "main", tail.removeprefix(f"{revision}/")

        def answer(self, body: bytes, commit: str) -> None:
            self.send_response(200)
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def refuse(self, status: int, code: str | None, commit: str | None = None) -> None:
            self.send_response(status)
            for name, value in (("X-Error-Code", code), ("X-Repo-Commit", commit), ("Content-Length", "0")):
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}", repositories)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
