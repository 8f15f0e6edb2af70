"""A stand-in of the hub's HTTP interface: it keeps what the real client commits to it.

Every file goes into the commit itself; the hub's store of large files (Xet) is not played.
"""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN, LOGIN = "hf_stand_in", "me"


class Hub(BaseHTTPRequestHandler):
    """repositories: (kind, OWNER/NAME) -> whether private, files"""

    repositories: dict
    endpoint: str

    def do_GET(self):
        self._answer({"name": LOGIN, "type": "user", "orgs": []})  # whoami-v2

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization'] or LOGIN}/{asked['name']}"
            private = asked.get("private") or asked.get("visibility") == "private"  # by version
            self.repositories[asked["type"], name] = {"private": private}
            self._answer({"url": self._address(asked["type"], name)})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            ways = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": file["path"], **ways} for file in json.loads(body)["files"]]
            self._answer({"files": files})
        else:
            _, _, kinds, owner, name, _, _ = self.path.split(
                "/"
            )  # /api/KINDS/OWNER/NAME/commit/REV
            kind, whole = kinds.removesuffix("s"), f"{owner}/{name}"
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.repositories[kind, whole]["files"] = {
                file["path"]: base64.b64decode(file["content"]) for file in files
            }
            address = f"{self._address(kind, whole)}/commit/0"
            self._answer({"commitUrl": address, "commitOid": "0" * 40})

    def _address(self, kind, name):
        return f"{self.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"

    def _answer(self, value):
        allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
        text = json.dumps(value if allowed else {"error": "Invalid credentials"}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    """-> (its address, its repositories)"""
    repositories: dict = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    Hub.repositories, Hub.endpoint = repositories, endpoint
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield endpoint, repositories
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
