"""An OpenAI-compatible endpoint of the user's own as a questions.Source (decoding.engine=openai).

Only /v1/completions with prompts as ids and `return_token_ids` will do, as vLLM's server (from
0.10.2) and SGLang's have it: text that is encoded again is other ids than were sampled. Which
weights stand behind a name only its owner knows; the name is looked up, nothing more.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tspin.config.run import DecodingConfig
from tspin.data.tokens import Renderer
from tspin.sampling.requests import Batches, Done, Question, check_response

KEY = "TSPIN_API_KEY"  # environment variable: the key is in no file and on no command line
SECONDS = 600.0  # of one request
LARGEST = 1 << 26  # bytes of an answer that are read
PATIENCE = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds between two tries
BUSY = (408, 425, 429)  # of the user's errors, those that pass; all of the server's may


@dataclass(frozen=True)
class Endpoint:
    """The policy that is served at `url` (.../v1) under the name `served`."""

    url: str
    served: str
    renderer: Renderer
    facts: dict[str, Any] = field(default_factory=dict)
    central = True

    def answers(
        self, batches: Batches, how: DecodingConfig, *, done: Done
    ) -> Iterator[tuple[int, list[list[int]]]]:
        """Batch after batch, decoding.batch_size requests at a time.

        Raises ValueError where the endpoint is out of reach, serves another name, or returns no
        ids; batches that ended before have been given.
        """
        asked = dict(batches)
        if not asked:
            return
        self._look_up()
        self.facts["engine"] = {"openai": self.served}
        pool = ThreadPoolExecutor(how.batch_size)
        try:
            for key, questions in asked.items():
                responses = []
                for ids in pool.map(partial(self._answer, how), questions):
                    responses.append(ids)
                    done(1)
                yield key, responses
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _look_up(self) -> None:
        found = self._call("/models", None)
        try:
            names = [str(entry["id"]) for entry in found["data"]]
        except (LookupError, TypeError):
            raise self._refusal(f"/models: {str(found):.200} is no list of models") from None
        if self.served not in names:
            raise ValueError(
                f"decoding.url={self.url} serves {', '.join(names) or 'nothing'}, not "
                f"{self.served}: serve it under this name (vllm serve FOLDER --served-model-name "
                f"{self.served}) and give the same command again, or set decoding.url_model"
            )

    def _answer(self, how: DecodingConfig, question: Question) -> list[int]:
        """Everything is said, since a server's own defaults may come from the model's folder."""
        prompt = list(question.prompt)
        found = self._call(
            "/completions",
            {
                "model": self.served,
                "prompt": prompt,
                "add_special_tokens": False,
                "return_token_ids": True,
                "max_tokens": how.max_new_tokens,
                "stop_token_ids": self.renderer.stop_ids,
                "temperature": 0.0 if question.seed is None else question.temperature,
                "top_k": how.top_k or -1,
                "top_p": 1.0 if how.top_p is None else how.top_p,
                "min_p": 0.0 if how.min_p is None else how.min_p,
                "repetition_penalty": 1.0,
                **({} if question.seed is None else {"seed": question.seed}),
            },
        )
        try:
            (choice,) = found["choices"]
            ids, read = choice.get("token_ids"), choice.get("prompt_token_ids")
        except (LookupError, ValueError, TypeError, AttributeError):
            raise self._refusal(f"{str(found):.200} is no completion") from None
        if ids is None:
            raise self._refusal(
                "it returns no token ids, and text that is encoded again is other ids than were "
                "sampled; needed is return_token_ids, as vLLM 0.10.2 or SGLang have it"
            )
        if read is not None and read != prompt:
            length = len(read) if isinstance(read, list) else 0
            raise self._refusal(f"it read {length} prompt ids that are not the {len(prompt)} sent")
        try:
            check_response(ids, stop=self.renderer.stop_ids, max_new_tokens=how.max_new_tokens)
        except ValueError as error:
            raise self._refusal(str(error)) from None
        return ids

    def _call(self, path: str, body: dict[str, Any] | None) -> Any:
        """The answer to GET (without a body) or POST; tried again while the server is busy."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url.rstrip("/") + path, data, headers)
        for patience in (*PATIENCE, None):
            try:
                with _OPENER.open(request, timeout=SECONDS) as answer:
                    return json.loads(answer.read(LARGEST))
            except HTTPError as error:
                reason = f"{path}: {error.code} {error.reason} {_detail(error)}".strip()
                if error.code < 500 and error.code not in BUSY:
                    hint = f"; its key goes into ${KEY}" if error.code in (401, 403) else ""
                    raise self._refusal(f"{reason}{hint}") from None
            except (ValueError, RecursionError):
                raise self._refusal(f"{path}: the answer is no JSON") from None
            except (OSError, HTTPException) as error:  # out of reach, cut off, or too slow
                reason = f"{path}: {error or type(error).__name__}"
            if patience is not None:
                time.sleep(patience * random.uniform(0.5, 1.0))  # not all of them at once
        raise self._refusal(f"{reason}, {len(PATIENCE) + 1} times")

    def _refusal(self, reason: str) -> ValueError:
        return ValueError(
            f"decoding.engine=openai: {self.url}: {reason} (the same command goes on where this "
            "one stopped)"
        )


class _Stay(HTTPRedirectHandler):
    """Elsewhere is another endpoint, which the key was not meant for."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        return None


_OPENER = build_opener(_Stay)


def _detail(error: HTTPError) -> str:
    """What the server says of its error, shortened."""
    try:
        return f"({' '.join(error.read().decode(errors='replace').split()):.300})"
    except (OSError, HTTPException):
        return ""
