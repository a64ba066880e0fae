"""A local server that answers the few requests of the hub's client that a download makes."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Files by `repository/name`; what was asked for; when to fail."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges: list[tuple[int, int]] = []
        """Of every block that was sent, in order."""
        self.fail_after: int | None = None
        """So many blocks are sent, then the server answers 403."""
        self.damaged = False
        """Send other bytes than were announced."""
        self.gated: set[str] = set()
        """Repositories whose files are for those alone who were let in."""
        self.tokens: set[str] = set()
        """As whom was asked."""
        self.url = ""


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._path()):
                return self._send_of_model(match[1], match[2], match[3])
            return self._reply(404, b"")

        def do_GET(self) -> None:
            if match := re.fullmatch(
                r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", self._path()
            ):
                return self._describe_model(match[1], match[2] or "main")
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._path()):
                return self._send_of_model(match[1], match[2], match[3])
            if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(/revision/.*)?", self._path()):
                return self._json({"id": match[1], "sha": REVISION, "siblings": []})
            if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+/?", self._path()):
                return self._json([self._entry(key) for key in hub.files if match[1] in key])
            if match := re.fullmatch(rf"/datasets/(.+)/resolve/{REVISION}/(.+)", self._path()):
                return self._send(hub.files[f"{match[1]}/{match[2]}"])
            return self._reply(404, b"")

        def _describe_model(self, repository: str, revision: str) -> None:
            files = [key for key in hub.files if key.startswith(f"{repository}/")]
            if not files:
                return self._refuse(401, "RepoNotFound")
            if revision not in ("main", REVISION):
                return self._refuse(404, "RevisionNotFound")
            names = [{"rfilename": key.removeprefix(f"{repository}/")} for key in files]
            self._json({"id": repository, "sha": REVISION, "siblings": names})

        def _send_of_model(self, repository: str, revision: str, name: str) -> None:
            if sent := self.headers["Authorization"]:
                hub.tokens.add(sent)
            if repository in hub.gated:
                return self._refuse(403, "GatedRepo")
            data = hub.files.get(f"{repository}/{name}")
            if data is None:
                return self._refuse(404, "EntryNotFound")
            self.send_response(200)
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            match = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/[^/]+", self._path())
            entries = [self._entry(key) for key in hub.files if match and match[1] in key]
            self._json(entries)

        def _path(self) -> str:
            return self.path.partition("?")[0]

        def _entry(self, key: str) -> dict[str, object]:
            data = hub.files[key]
            lfs = {"size": len(data), "oid": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
            name = key.split("/", 2)[2]
            return {"type": "file", "path": name, "size": len(data), "oid": "0" * 40, "lfs": lfs}

        def _send(self, data: bytes) -> None:
            if hub.fail_after is not None and len(hub.ranges) >= hub.fail_after:
                return self._reply(403, b"")
            first, last = map(int, re.findall(r"\d+", self.headers["Range"]))
            hub.ranges.append((first, last))
            block = data[first : last + 1]
            return self._reply(206, bytes(len(block)) if hub.damaged else block)

        def _json(self, document: object) -> None:
            self._reply(200, json.dumps(document).encode(), "application/json")

        def _reply(self, status: int, body: bytes, kind: str = "application/octet-stream") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
