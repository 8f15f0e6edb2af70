"""An endpoint of the user's own: what it is asked, what is refused, and what is tried again.

Against a real HTTP server that answers /v1/models and /v1/completions as vLLM's does. With
TSPIN_VLLM_PYTHON=PATH the last test starts vLLM's own.
"""

import json
import os
import random
import socket
import subprocess
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import pytest
from support.tiny import PROMPTS, compose, play
from support.vllm_stand_in import REAL, STOP, real
from support.waiting import until

from tspin.micro import folder
from tspin.policy import policy
from tspin.runs.artifacts import Responses
from tspin.sampling import openai
from tspin.sampling.openai import Endpoint
from tspin.sampling.requests import luck
from tspin.stages.generate import generate

NAME = "a/policy"


class Server(ThreadingHTTPServer):
    """What it was asked, and how it answers: `change` may alter a completion or fail."""

    def __init__(self, change=lambda body, answer, tries: answer, names=(NAME,)):
        super().__init__(("127.0.0.1", 0), Handler)
        self.change, self.names, self.asked, self.keys = change, names, [], []
        self.tries = Counter()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        assert self.path == "/v1/models"
        self.server.keys.append(self.headers["Authorization"])
        self.reply({"data": [{"id": name, "object": "model"} for name in self.server.names]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/completions"
        self.server.asked.append(body)
        self.server.tries[str(body["prompt"])] += 1
        tries = self.server.tries[str(body["prompt"])]
        dice, ids = random.Random(str(body)), []
        while len(ids) < body["max_tokens"] and ids[-1:] != [STOP]:
            ids.append(dice.choice([STOP, *range(3, 12)]))
        choice = {"index": 0, "text": "?", "token_ids": ids, "prompt_token_ids": body["prompt"]}
        choice["finish_reason"] = "stop" if ids[-1] == STOP else "length"
        self.reply(
            self.server.change(body, {"object": "text_completion", "choices": [choice]}, tries)
        )

    def reply(self, answer):
        """A dict: 200 with it; a number: that status; b"": the connection is cut."""
        if answer == b"":
            return self.close()
        status = answer if isinstance(answer, int) else 200
        data = json.dumps({"error": "of a test"} if isinstance(answer, int) else answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status == 307:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.end_headers()
        self.wfile.write(data)

    def close(self):
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(openai, "PATIENCE", (0.01, 0.01))


def settings(**changes):
    new = {"engine": "openai", "max_new_tokens": 12, "batch_size": 2}
    return replace(compose().decoding, **new | changes)


def sample(url, out, how=None, *, name=NAME, prompts=PROMPTS):
    out = Responses(out)
    asked = Endpoint(url, name, policy.renderer(folder("warm"), template="alpaca_space"))
    how = how or settings()
    generate(asked, prompts, out, how=how, seed=0, t=1, label="test", facts={})
    return out


# --- what it is asked ----------------------------------------------------------------------------


def test_a_request_says_everything_in_ids(tmp_path):
    """A server's own defaults may come from the folder of the model: none is left to it."""
    with Server() as server:
        sample(server.url, tmp_path, settings(top_k=7, top_p=0.9, temperature=0.6))
    asked = {tuple(body.pop("prompt")): body for body in server.asked}
    by_prompt = {tuple(ids): luck(0, 1, i) for i, ids in PROMPTS.items()}
    assert asked.keys() == by_prompt.keys()
    seeds = [body.pop("seed") for body in server.asked]
    assert sorted(seeds) == sorted(luck(0, 1, i) for i in PROMPTS)
    assert all(
        body == {
            "model": NAME, "add_special_tokens": False, "return_token_ids": True, "max_tokens": 12,
            "stop_token_ids": [STOP], "temperature": 0.6, "top_k": 7, "top_p": 0.9, "min_p": 0.0,
            "repetition_penalty": 1.0,
        }
        for body in server.asked
    )  # fmt: skip


def test_greedy_has_no_seed(tmp_path):
    with Server() as server:
        sample(server.url, tmp_path, settings(sample=False))
    assert all(body["temperature"] == 0 and "seed" not in body for body in server.asked)


def test_responses_are_stored_as_they_were_returned(tmp_path):
    with Server() as server:
        rows = sample(server.url, tmp_path).rows()
    assert sorted(row["id"] for row in rows) == sorted(PROMPTS)
    assert {row["finish_reason"] for row in rows} == {"stop", "length"}
    assert all(
        (row["response_ids"][-1] == STOP) == (row["finish_reason"] == "stop") for row in rows
    )
    assert Responses(tmp_path).facts()["engine"] == {"openai": NAME}


def test_the_key_comes_from_the_environment_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TSPIN_API_KEY", "s3cret")
    with Server() as server:
        out = sample(server.url, tmp_path)
    assert server.keys == ["Bearer s3cret"]
    assert not any(b"s3cret" in f.read_bytes() for f in out.path.iterdir())


# --- what is tried again, and what is refused ----------------------------------------------------


@pytest.mark.parametrize("trouble", [500, 503, 429, b""])
def test_a_busy_server_is_asked_again(tmp_path, trouble):
    with Server() as server:
        whole = sample(server.url, tmp_path / "whole").ids()
    with Server(lambda body, answer, tries: trouble if tries == 1 else answer) as server:
        again = sample(server.url, tmp_path / "again").ids()
    assert again == whole and len(server.asked) > len(whole)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda choice: choice.pop("token_ids"), "returns no token ids.*return_token_ids"),
        (lambda choice: choice["prompt_token_ids"].insert(0, 2), "prompt ids that are not"),
        (lambda choice: choice["token_ids"].append(5), "has 13 tokens|behind the stop id 1"),
        (lambda choice: choice.update(token_ids=[5]), "ended after 1 of 12 tokens, with the id 5"),
        (lambda choice: choice.update(token_ids="five"), "not token ids"),
    ],
)
def test_answers_that_no_policy_gave_are_refused(tmp_path, change, reason):
    def changed(body, answer, tries):
        change(answer["choices"][0])
        return answer

    with Server(changed) as server, pytest.raises(ValueError, match=reason):
        sample(server.url, tmp_path)
    assert not Responses(tmp_path).exists()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (500, r"/completions: 500 .*of a test.*, 3 times"),
        (400, r"/completions: 400 Bad Request \(.*of a test"),
        (401, r"/completions: 401 .*its key goes into \$TSPIN_API_KEY"),
        (307, r"/completions: 307"),  # elsewhere may be anybody's
        ({"choices": []}, "is no completion"),
    ],
)
def test_errors_of_the_server_are_passed_on(tmp_path, answer, reason):
    with Server(lambda *_: answer) as server, pytest.raises(ValueError, match=reason):
        sample(server.url, tmp_path)


def test_nobody_there(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(
        ValueError, match=f"http://127.0.0.1:{port}/v1: /models: .*refused.*3 times"
    ):
        sample(f"http://127.0.0.1:{port}/v1", tmp_path)


def test_parts_that_ended_are_kept(tmp_path):
    late = PROMPTS["p0"]  # the shortest prompts come last
    with Server(lambda body, answer, _: 400 if body["prompt"] == late else answer) as server:
        with pytest.raises(ValueError, match="400"):
            sample(server.url, tmp_path)
    assert [Responses(tmp_path).part(i).exists() for i in range(3)] == [True, True, False]
    with Server() as server:
        sample(server.url, tmp_path)
    assert len(server.asked) == 7


# --- which policy it serves ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "needs decoding.url .* and decoding.url_model"),
        (["decoding.url=http://x/v1", "decoding.url_model=m"], "names one policy for good"),
        (["decoding.url=http://key@x/v1", "decoding.url_model=m"], "decoding.url: no password"),
    ],
)
def test_an_endpoint_that_follows_no_policy_is_refused(words, reason):
    with pytest.raises(ValueError, match=reason):
        compose("decoding.engine=openai", *words)


@pytest.mark.runs
def test_one_policy_is_enough_for_one_iteration(tmp_path):
    only = ["selfplay.iterations=1", "data.heldout=0", f"decoding.url_model={NAME}"]
    with Server() as server:
        run, _ = play(
            tmp_path, "tspin", "decoding.engine=openai", f"decoding.url={server.url}", *only
        )
    assert len(server.asked) == 24 and len(run.proto.rows()) == 24


@pytest.mark.runs
def test_a_run_asks_for_each_policy_by_its_folder(tmp_path):
    """It stops where the endpoint does not serve what is next, and goes on once it does."""
    words = ["decoding.engine=openai", "decoding.url_model=CHECKPOINT", "selfplay.iterations=1"]
    with Server(names=[str(folder("warm"))]) as server:
        words.append(f"decoding.url={server.url}")
        with pytest.raises(ValueError, match="serves .*warm, not .*iter_0/checkpoint: serve it"):
            play(tmp_path, "tspin", *words)
        server.names = [str(tmp_path / "tspin" / "iter_0" / "checkpoint")]
        run, rows = play(tmp_path, "tspin", *words)
    assert [row["iteration"] for row in rows] == ["base", 0]
    assert {body["model"] for body in server.asked} == {str(folder("warm")), *server.names}


@real
def test_vllms_own_server(tmp_path):
    """Greedy ids of the server are greedy ids of the library, and samples repeat themselves."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [REAL, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder("warm"))]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", NAME]
    command += ["--dtype", "float32", "--max-model-len", "64", "--enforce-eager"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )

    def healthy():
        assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
        try:
            return urlopen(f"http://127.0.0.1:{port}/health").status == 200
        except OSError:
            return False

    try:
        until(healthy, 600.0)
        url = f"http://127.0.0.1:{port}/v1"
        one, two = (sample(url, tmp_path / name) for name in ("one", "two"))
        assert one.ids() == two.ids()
        assert any(row["response_ids"][-1] == STOP for row in one.rows())
        cold = sample(url, tmp_path / "cold", settings(top_k=1)).ids()
        assert cold == sample(url, tmp_path / "greedy", settings(sample=False)).ids()
    finally:
        os.killpg(server.pid, 9)
        server.wait()
