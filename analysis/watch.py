"""A page of runs while they go on, for this machine alone; it renews itself.

    python -m analysis watch [RUNS] [port=PORT] [open=true]

RUNS is a folder of runs, or one run. The address is printed: 127.0.0.1 and a random token, so that
nobody else on the machine reads the samples. It holds curves over steps, what each run does, its
alerts, its samples, comparisons; nothing is written. Ctrl-C ends it. From another machine:
ssh -L PORT:127.0.0.1:PORT HOST.
"""

from __future__ import annotations

import logging
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from analysis.options import command, named
from tspin.runs.artifacts import RunDir, run_dirs

log = logging.getLogger("tspin")


def main(arguments: Sequence[str]) -> None:
    typed = named(arguments, "runs")
    with command(__doc__, typed, runs="runs", port="0", open="false") as options:
        folder = Path(options["runs"]).expanduser()
        if not (RunDir(folder).config.exists() or run_dirs(folder)):
            raise ValueError(f"runs={folder} has no runs in it yet; python main.py makes one")
        if not options["port"].isdigit() or int(options["port"]) > 65535:
            raise ValueError(f"port={options['port']} is no port: 1 to 65535, 0 for a free one")
        import pyarrow as pa

        from analysis.report.server import Server, Site  # pandas and matplotlib: not for --help

        # The allocator that pyarrow brings keeps some 20 MB more of what was read for a page.
        pa.set_memory_pool(pa.system_memory_pool())
        with Server(Site(folder), int(options["port"])) as server:
            log.info("%s (Ctrl-C ends it)", server.address)
            if options["open"] == "true":
                webbrowser.open(server.address)
            server.serve_forever()
