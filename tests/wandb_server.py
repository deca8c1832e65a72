"""A server that answers W&B's client as far as it must to take a run."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO


class Server(ThreadingHTTPServer):
    """Takes every run but those of `refused`; what it was given is in `runs` and `histories`, by the run's id."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.refused: set[str] = set()
        self.runs: dict[str, dict[str, Any]] = {}
        self.histories: dict[str, list[dict[str, Any]]] = {}
        self.exit_codes: dict[str, int] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, name: str, told: dict[str, Any]) -> dict[str, Any]:
        """Answer a query of GraphQL."""
        if name == "UpsertBucket":
            run = told["name"]
            if run in self.refused:
                return {"errors": [{"message": f"no room for {run}"}], "data": {"upsertBucket": None}}
            self.runs.setdefault(run, {}).update({key: value for key, value in told.items() if value is not None})
            project = {"id": "p", "name": told["project"], "entity": {"id": "e", "name": "somebody"}}
            bucket = {"id": run, "name": run, "displayName": told.get("displayName"), "project": project}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if name == "CreateRunFiles":
            files = [{"name": one, "uploadUrl": f"{self.address}/storage/{one}"} for one in told["files"]]
            return {"data": {"createRunFiles": {"runID": told["run"], "uploadHeaders": [], "files": files}}}
        return {"data": {}}

    def stream(self, path: str, told: dict[str, Any]) -> None:
        """Take rows of a run's history, and how it ended."""
        run = path.split("/")[-2]
        for line in told.get("files", {}).get("wandb-history.jsonl", {}).get("content", []):
            self.histories.setdefault(run, []).append(json.loads(line))
        if told.get("complete"):
            self.exit_codes[run] = told["exitcode"]


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = content(self.headers, self.rfile)
        answer: dict[str, Any] = {}
        if self.path.startswith("/graphql"):
            asked = json.loads(body)
            answer = self.server.take(asked["operationName"], asked.get("variables") or {})
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.path, json.loads(body))
        self.answer(answer)

    def do_PUT(self) -> None:
        content(self.headers, self.rfile)
        self.answer({})

    def do_GET(self) -> None:
        self.answer({})

    def answer(self, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


def content(headers: Any, sent: BinaryIO) -> bytes:
    """Return the body of a request."""
    if headers.get("Transfer-Encoding") == "chunked":
        body = b""
        while length := int(sent.readline(), 16):
            body += sent.read(length)
            sent.readline()
        sent.readline()
    else:
        body = sent.read(int(headers.get("Content-Length") or 0))
    return gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body


@contextmanager
def serving() -> Iterator[Server]:
    """Let a server answer while this is open."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
