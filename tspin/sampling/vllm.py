"""vLLM, parent side: a requests.Engine whose policy is in a process, or several, of its own.

vLLM lives in its own environment (decoding.vllm_python), reads the weights from the policy's folder
and gets prompts and gives responses as ids; vllm_worker is what runs there. One batch after
the other, each from an empty prefix cache, so that a batch's samples depend neither on restarts nor
on how many processes there are, as far as vLLM itself repeats what it does.

Adapters are merged into their base first, once for all processes: vLLM's own way of adding them
knows no float32, only some ranks and not every architecture.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tspin.config.run import DecodingConfig
from tspin.data.tokens import Renderer
from tspin.sampling.requests import Batches, Done, Request, check_response
from tspin.tools.child import Child, serving, started, without_ranks
from tspin.tools.files import remove, room_for

WORKER = Path(__file__).resolve().with_name("vllm_worker.py")
# Without the working folder on the path; loading it would take seconds.
CHECK = """import sys
from importlib.util import find_spec
del sys.path[0]
sys.exit(find_spec("vllm") is None and f"{sys.executable} has no module vllm")"""
CHECK_SECONDS = 60.0
TAIL = 3  # lines of a log that an error shows
MERGED = ".merged.tmp"  # hidden, so that no copy of the run takes it along
WAY_OUT = (
    "see the log; less memory takes decoding.gpu_memory or decoding.vllm_args.max_num_seqs, "
    "decoding.engine=native needs no vLLM, and the same command goes on where this one stopped"
)

Message = dict[str, Any]


def check(how: DecodingConfig) -> None:
    """ValueError, within seconds, where the interpreter that is meant has no vLLM."""
    python = _python(how)
    try:
        done = subprocess.run(
            [python, "-c", CHECK],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS,
            env=_environment(how, None),
            start_new_session=True,
        )
        lines = done.stderr.strip().splitlines() or [f"{python} fails without a word"]
        reason = lines[-1] if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = f"{python} does not run ({error})"
    if reason is not None:
        raise ValueError(
            f"decoding.engine=vllm: {reason}; install vLLM into an environment of its own and name "
            "its interpreter with decoding.vllm_python=PATH (docs/sampling.md)"
        )


@dataclass(frozen=True)
class VLLM:
    """The policy in `folder`, served by vLLM.

    dtype    of the arithmetic, as vLLM calls it
    devices  for each process the value of CUDA_VISIBLE_DEVICES; None: as it is here
    log      file for everything that vLLM says
    merge    writes the whole model into a new folder, where `folder` holds adapters
    """

    folder: Path
    renderer: Renderer
    dtype: str
    devices: Sequence[str | None]
    log: Path
    merge: Callable[[Path], None] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    central = True

    def respond(
        self, batches: Batches, how: DecodingConfig, *, done: Done
    ) -> Iterator[tuple[int, list[list[int]]]]:
        """Batches go to whichever process is free.

        Raises ValueError with the reason and the end of the log when a process fails; batches that
        ended before have been given.
        """
        by_key = dict(batches)
        if not by_key:
            return
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for key in by_key:
            todo.put(key)
        events: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        left = len(by_key)
        with ExitStack() as stack:
            log = stack.enter_context(self.log.open("ab"))
            request = self._request(stack.enter_context(self._whole_model()), by_key, how)
            command = serving(_python(how), str(WORKER))
            for device in self.devices[:left]:
                environment = _environment(how, device)
                child = stack.enter_context(started(command, log=log, environment=environment))
                child.send(request)
                threading.Thread(
                    target=_feed, args=(child, by_key, todo, events), daemon=True
                ).start()
            while left:
                event = events.get()
                if "failed" in event:
                    raise ValueError(
                        f"decoding.engine=vllm: {event['failed']} ({self.log}{self._end()}); "
                        f"{WAY_OUT}"
                    )
                if "ready" in event:
                    merged = {} if self.merge is None else {"adapters": "merged"}
                    self.facts["engine"] = event["ready"] | merged
                elif "done" in event:
                    done(event["done"])
                else:
                    left -= 1
                    stop = self.renderer.stop_ids
                    for ids in event["responses"]:
                        check_response(ids, stop=stop, max_new_tokens=how.max_new_tokens)
                    yield event["key"], event["responses"]

    @contextmanager
    def _whole_model(self) -> Iterator[Path]:
        """A folder that vLLM can read; a merged one is beside the log, as long as it is needed."""
        if self.merge is None:
            yield self.folder
            return
        merged = self.log.parent / MERGED
        remove(merged)  # of a process that was killed
        try:
            merged.mkdir()
            with room_for(merged):
                self.merge(merged)
            yield merged
        finally:
            remove(merged)

    def _request(
        self, folder: Path, batches: Mapping[int, Sequence[Request]], how: DecodingConfig
    ) -> dict[str, Any]:
        """What to load and how to sample, in vLLM's own words.

        Stop ids are ours alone: neither the tokenizer nor the folder's generation_config adds any,
        and the id that stopped a response stays in it. No filter is what stands for null. How many
        responses are in the making at a time is vLLM's to say: as many as their keys and values fit
        beside the weights (decoding.vllm_args.max_num_seqs limits them).
        """
        longest = max(len(request.prompt) for batch in batches.values() for request in batch)
        return {
            "engine": {
                "model": str(folder.absolute()),
                "skip_tokenizer_init": True,
                "generation_config": "vllm",
                "dtype": self.dtype,
                "max_model_len": longest + how.max_new_tokens,
                "tensor_parallel_size": how.tensor_parallel,
                "gpu_memory_utilization": how.gpu_memory,
                **how.vllm_args,
            },
            "sampling": {
                "top_k": how.top_k or 0,
                "top_p": 1.0 if how.top_p is None else how.top_p,
                "min_p": 0.0 if how.min_p is None else how.min_p,
                "max_tokens": how.max_new_tokens,
                "stop_token_ids": self.renderer.stop_ids,
                "ignore_eos": True,
                "detokenize": False,
            },
        }

    def _end(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = " | ".join([line.strip() for line in lines if line.strip()][-TAIL:])
        return f": ... {last[-600:]}" if last else ""


def devices(how: DecodingConfig, visible: Sequence[str]) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each of decoding.data_parallel processes.

    visible  the devices there are, by index or id; none: where vLLM computes is its own choice
    """
    size, wanted = how.tensor_parallel, how.data_parallel * how.tensor_parallel
    if not visible:
        return [None] * how.data_parallel
    if wanted > len(visible):
        raise ValueError(
            f"decoding.data_parallel={how.data_parallel} x decoding.tensor_parallel={size} wants "
            f"{wanted} GPUs, {len(visible)} are visible; make one of them smaller"
        )
    return [",".join(visible[i : i + size]) for i in range(0, wanted, size)]


# --- the process ---------------------------------------------------------------------------------


def _feed(
    child: Child,
    batches: Mapping[int, Sequence[Request]],
    todo: queue.SimpleQueue[int],
    events: queue.SimpleQueue[Message],
) -> None:
    """Gives one process batches while there are any, and passes on what it says."""
    key = None
    for message in child.messages():
        events.put(message | {"key": key})
        if "failed" in message:
            return
        if "done" not in message:
            try:
                key = todo.get_nowait()
            except queue.Empty:
                return child.send(None)
            requests = batches[key]
            child.send(
                {
                    "prompts": [list(request.prompt) for request in requests],
                    "seeds": [request.seed for request in requests],
                    "temperatures": [0.0 if r.seed is None else r.temperature for r in requests],
                }
            )
    events.put({"failed": child.death("vLLM's process") or "vLLM's process ended early"})


def _python(how: DecodingConfig) -> str:
    return sys.executable if how.vllm_python is None else os.path.expanduser(how.vllm_python)


def _environment(how: DecodingConfig, device: str | None) -> dict[str, str]:
    """Ours, without ranks and without what would lead another interpreter to our packages."""
    environment = without_ranks(os.environ)
    if how.vllm_python is not None:
        for name in ("PYTHONPATH", "PYTHONHOME"):
            environment.pop(name, None)
    return environment if device is None else environment | {"CUDA_VISIBLE_DEVICES": device}
