"""How every section of a configuration is read: no unknown key, no number that is not finite."""

from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
