"""How long a run of 50 000 prompts takes to open in a browser, and in how much memory.

    PYTHONPATH=.:tests python benchmarks/open_run.py [FOLDER]

Makes such a run once in FOLDER (default: a temporary one): five iterations, texts of 200 words,
1500 steps each, the log-probabilities of the tokens of 1000 prompts. Chromium opens its page as
`python -m analysis watch` serves it, made at that moment, and its report.html: until the first
samples stand there. Memory is the most that the process which shows the page has held; that of the
server, which begins with its libraries, is said too. Needs Linux, Chromium and its driver.
Aims: 2 s and 200 MB. Exit status 1 where they are missed.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.pages import chromium
from support.report_runs import add_triplets, write_run

from analysis.report import run_page
from tspin.runs.artifacts import TOKEN_LOGPS, TOKEN_LOGPS_PER_GROUP, RunDir
from tspin.tools.parquet import write_rows

PROMPTS, ITERATIONS, STEPS, WORDS = 50_000, 5, 1500, 200
SECONDS, MB = 2.0, 200
TEXTS = 1000  # that are different; of as many prompts tokens are known


def make(root: Path) -> RunDir:
    """The run, with texts of WORDS words."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9)))
             for _ in range(5000)]  # fmt: skip
    pool = [" ".join(draw.choices(words, k=WORDS)) for _ in range(TEXTS)]
    folder = write_run(root, "tspin", iterations=ITERATIONS, steps=STEPS)
    add_triplets(
        folder, PROMPTS, ITERATIONS, lambda i, what: f"{what} {i} {pool[(i + len(what)) % TEXTS]}"
    )
    for t in range(ITERATIONS):
        rows = (
            {"id": f"p{i}", "role": role, "tokens": [f"{word} " for word in pool[i].split()],
             "logps": [-draw.expovariate(1) for _ in range(WORDS)]}
            for i in range(TEXTS)
            for role in ("annotated", "synthetic", "proto")
        )  # fmt: skip
        path = folder.iteration(t).token_logps
        write_rows(path, rows, TOKEN_LOGPS, per_group=TOKEN_LOGPS_PER_GROUP)
    return folder


def seconds_of(process: int) -> float:
    """CPU seconds that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def most(process: int) -> float:
    """MB that a process has held at most."""
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(kib) / 1000


def renderers(driver: int) -> list[int]:
    """The processes of Chromium that show pages, below the driver's."""
    found, parents = [], {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    for process in parents:
        above = process
        while above in parents and above != driver:
            above = parents[above]
        if above == driver and b"--type=renderer" in Path(f"/proc/{process}/cmdline").read_bytes():
            found.append(process)
    return found


def opened(name: str, address: str, server: int | None = None) -> bool:
    """Opens the page in a browser of its own and says what it took. -> within the aims"""
    with chromium() as browser:
        driver = browser.service.process.pid
        before = 0.0 if server is None else seconds_of(server)
        began = time.perf_counter()
        browser.get(address)
        while not browser.find_elements("css selector", "#browser .sample"):
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        pages = renderers(driver)
        cpu, memory = sum(map(seconds_of, pages)), max(map(most, pages))
        nodes = browser.execute_script("return document.querySelectorAll('*').length")
        heap = browser.execute_script("return performance.memory.usedJSHeapSize") / 1e6
    line = f"{name}: {seconds:.1f} s (the page {cpu:.1f} s of CPU), {memory:.0f} MB, of scripts "
    line += f"{heap:.0f} MB, {nodes} elements"
    if server is not None:
        line += f"; the server {seconds_of(server) - before:.1f} s of CPU, {most(server):.0f} MB"
    sys.stderr.write(f"{line} (aims {SECONDS:.0f} s, {MB} MB)\n")
    return seconds <= SECONDS and memory <= MB


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary)
        folder = next(iter([RunDir(it.parent) for it in root.glob("*/config.yaml")]), None)
        folder = folder or make(root)
        command = [sys.executable, "-m", "analysis", "watch", str(folder.path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as serving:
            assert serving.stderr is not None
            try:
                (address,) = re.findall(r"http://\S+", serving.stderr.readline())
                served = opened("served", f"{address}runs/{folder.path.name}.html", serving.pid)
            finally:
                serving.terminate()
        began = time.process_time()
        path = run_page.write(folder.path)
        sys.stderr.write(
            f"report.html: {path.stat().st_size / 1e6:.1f} MB, made in "
            f"{time.process_time() - began:.1f} s of CPU\n"
        )
        return int(not (opened("report.html", path.as_uri()) and served))


if __name__ == "__main__":
    sys.exit(main())
