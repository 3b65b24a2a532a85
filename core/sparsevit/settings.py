"""How a room declares what a user may set: frozen pydantic dataclasses that refuse unknown names."""

from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid")
