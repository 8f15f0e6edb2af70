"""The hub, from afar: is it in reach, what is a model there? No torch."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

SECONDS = 5.0  # an unreachable hub should be known now, not after the client's retries


def is_reachable() -> bool:
    """Without it `datasets` retries for half a minute per data set before it asks its cache."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # the HTTP client, and with it its errors, changes by version
        return False
    return True


@cache
def model_config(name: str, revision: str | None) -> Any:
    """config.json of the model OWNER/NAME, from the cache or the hub; None where neither has it."""
    from huggingface_hub import get_session, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers

    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return json.loads(Path(cached).read_bytes())
        url = hf_hub_url(name, "config.json", revision=revision)
        answer = get_session().get(url, headers=build_hf_headers(), timeout=SECONDS)
        return answer.json() if answer.status_code == 200 else None
    except Exception:  # the HTTP client, and with it its errors, changes by version
        return None
