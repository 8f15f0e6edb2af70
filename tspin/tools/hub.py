"""The hub, from afar: is it in reach? No torch."""

from __future__ import annotations

SECONDS = 5.0  # an unreachable hub should be known now, not after the client's retries


def is_reachable() -> bool:
    """Without it `datasets` retries for half a minute per data set before it asks its cache."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # the HTTP client, and with it its errors, changes by version
        return False
    return True
