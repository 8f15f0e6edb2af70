"""The built-in tasks: generated instructions, checked by program, and policies of tiny size.

`task` has one right answer to a prompt, and its two policies are shipped; `drift` is the same with
answers that change over time, for the same policies; `open_task` has many right answers, and its
three policies are built once into the cache. `python -m tspin.micro` makes either from nothing;
README.md and open.md are their model cards. Importing this package or a task does not import torch.
"""

from __future__ import annotations

from pathlib import Path

from tspin.tools.files import cache

# Task -> its policies: pre-trained, then after supervised fine-tuning on pairs of another split.
POLICIES = {"micro": ("base", "warm"), "micro_open": ("base", "weak", "main")}

# open_build.fingerprint(): policies of another recipe are in another folder of the cache.
OPEN_RECIPE = "0ab781de"


def folder(which: str, task: str = "micro") -> Path:
    """Folder of a policy and its tokenizer, as `from_pretrained` takes it.

    Those of "micro" are part of the package; those of "micro_open" are there once
    `open_build.build` has made them. Raises ValueError for a name that is not in POLICIES.
    """
    if which not in POLICIES[task]:
        choices = " or ".join(map(repr, POLICIES[task]))
        raise ValueError(f"no {task} policy {which!r}: choose {choices}")
    home = Path(__file__).parent if task == "micro" else cache() / f"micro_open-{OPEN_RECIPE}"
    return home / which
