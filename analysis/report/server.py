"""The report, served while runs go on: to this machine alone, behind a token in the address.

The standard library serves it: one reader, a handful of pages, nothing to configure. Pages are made
when they are asked for and kept until a file of theirs changes. Nothing is written.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pyarrow.parquet as pq

from analysis.reading.runs import Runs
from analysis.reading.triplets import ORDERS, Triplets
from analysis.report import comparison_page, overview, run_page
from tspin.runs.artifacts import RunDir, run_dirs

log = logging.getLogger("tspin")
HOST = "127.0.0.1"
MOST = 100  # prompts in one answer
Answer = tuple[str, str]  # type of content, text


class Site:
    """Pages of the runs in a folder, or of the one run that it is. Made one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[str, Any]] = {}

    def answer(self, path: str, query: Mapping[str, str]) -> Answer | None:
        """What stands at a path behind the token; None where nothing does. ValueError for a query
        that asks for what is not there."""
        with self._lock:
            if path in ("", "index.html"):
                return "text/html", self._once("index", self.state(), self._overview)
            if path == "paper.html":
                return "text/html", self._once("paper", self.state(), self._paper)
            if path == "compare.html":
                return "text/html", self._compare(query)
            if path in ("state", "runs/state"):
                return "text/plain", self.state()
            kind, _, name = path.partition("/")
            name = unquote(name)
            if kind == "runs" and name.endswith(".html"):
                return self._run(name.removesuffix(".html"))
            if kind == "samples" and (folder := self._known(name)):
                return "application/json", json.dumps(self._samples(folder, query))
        return None

    def state(self, folder: RunDir | None = None) -> str:
        """Changes whenever a file that pages are made of does."""
        folders = [folder] if folder else self._folders()
        parts = []
        for file in (file for run in folders for file in _watched(run)):
            try:
                stat = file.stat()
            except OSError:  # it is not there, or was replaced meanwhile
                continue
            parts.append(f"{file} {stat.st_size} {stat.st_mtime_ns}")
        return f"{hash(tuple(parts)):x}"

    def _folders(self) -> list[RunDir]:
        one = RunDir(self.folder)
        return [one] if one.config.exists() else run_dirs(self.folder)

    def _known(self, name: str) -> RunDir | None:
        return next((it for it in self._folders() if it.path.name == name), None)

    def _once(self, key: str, state: str, make: Callable[[], Any]) -> Any:
        if key not in self._kept or self._kept[key][0] != state:
            self._kept[key] = state, make()
        return self._kept[key][1]

    def _runs(self) -> Runs:
        if RunDir(self.folder).config.exists():
            return Runs.read_one(self.folder)
        return Runs.read(self.folder)

    def _overview(self) -> str:
        state = self.state()
        runs = self._runs()
        return overview.page(runs, runs.problems, live=state)

    def _paper(self) -> str:
        from analysis.claims import claims  # seldom wanted while runs go on
        from analysis.report import catalogue, page, render

        runs = self._runs()
        pieces = catalogue.build(runs)
        images = render.images(pieces, [render.SHOWN])
        return page.page(runs, pieces, images, claims.judge(runs), files=False)

    def _run(self, name: str) -> Answer | None:
        folder = self._known(name)
        if folder is None:
            return None

        def make() -> str:
            state = self.state()  # before anything is read: what changes then is seen to differ
            runs = Runs.read_one(folder.path)
            (run,) = runs
            url = f"../samples/{quote(name, safe='')}"
            samples = {"url": url, "total": self._number(folder), "orders": ORDERS}
            return run_page.page(runs, run, run_page.status_of(run), samples, live=state)

        return "text/html", self._once(f"run {name}", self.state(folder), make)

    def _triplets(self, folder: RunDir) -> Triplets:
        done = json.dumps([folder.iterations(), folder.begun()])
        sampled = [folder.iteration(t).synthetic.exists() for t in folder.begun()]
        key = f"triplets {folder.path.name}"
        state = f"{done} {sampled} {folder.prompts.exists()}"
        return self._once(key, state, lambda: Triplets(folder))

    def _number(self, folder: RunDir) -> int:
        """Of prompts: without reading their numbers, so that the page opens before them."""
        if folder.prompts.exists():
            return int(pq.read_metadata(folder.prompts).num_rows)
        return len(self._triplets(folder))

    def _samples(self, folder: RunDir, query: Mapping[str, str]) -> dict[str, Any]:
        kept = self._triplets(folder)
        ids = kept.ids(
            query.get("order", "data"), split=query.get("split", ""), search=query.get("search", "")
        )
        first = max(1, _number(query, "place", 1)) - 1
        most = min(MOST, max(1, _number(query, "most", 5)))
        return {"total": len(ids), "rows": kept.rows(ids[first : first + most])}

    def _compare(self, query: Mapping[str, str]) -> str:
        sides = []
        for key in ("a", "b"):
            name, _, t = query.get(key, "").partition(":")
            folder = self._known(name)
            if folder is None:
                raise ValueError(f"{key}={name} is none of the runs of {self.folder}")
            sides.append(comparison_page.side(folder.path, t))
        return comparison_page.page(*sides, alone=False)


class Server(ThreadingHTTPServer):
    """Serves a Site at http://127.0.0.1:PORT/TOKEN/. port: 0 for a free one"""

    daemon_threads = True

    def __init__(self, site: Site, port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.site = site
        self.token = secrets.token_urlsafe(16)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "tspin"
    sys_version = ""

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        # Another name for this machine would be a page of somebody else's that reads ours.
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            return self._send(HTTPStatus.FORBIDDEN, "text/plain", "not this address")
        url = urlsplit(self.path)
        token, _, path = url.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return self._send(HTTPStatus.NOT_FOUND, "text/plain", "nothing here")
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        try:
            answer = self.server.site.answer(path, query)
        except (ValueError, OSError) as error:
            return self._send(HTTPStatus.BAD_REQUEST, "text/plain", str(error))
        except Exception as error:  # of one page: the others are served
            log.warning("%s: %s: %s", path, type(error).__name__, error)
            log.debug("%s", path, exc_info=True)
            text = f"this page could not be made: {type(error).__name__}: {error}"
            return self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", text)
        if answer is None:
            return self._send(HTTPStatus.NOT_FOUND, "text/plain", "nothing here")
        return self._send(HTTPStatus.OK, *answer)

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        try:
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):  # the browser went on
            pass

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: addresses hold the token."""


def _watched(run: RunDir) -> Iterator[Path]:
    """The files that change while a run goes on, and that pages are made of."""
    yield from (run.config, run.heartbeat, run.base.evaluation)
    for t in sorted({*run.iterations(), *run.begun()}):
        out = run.iteration(t)
        yield from (out.metrics, *sorted(out.path.glob("*.json")))


def _number(query: Mapping[str, str], key: str, default: int) -> int:
    text = query.get(key, str(default))
    if not text.isdigit():
        raise ValueError(f"{key}={text} has to be a whole number")
    return int(text)
