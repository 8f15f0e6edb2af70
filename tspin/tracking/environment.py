"""Environment variables that the library of a tracker reads, for as long as its run goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def defaults(variables: Mapping[str, str]) -> Iterator[None]:
    """Inside, variables that nobody has set have these values; behind it they are unset again."""
    missing = [name for name in variables if name not in os.environ]
    os.environ.update({name: variables[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
