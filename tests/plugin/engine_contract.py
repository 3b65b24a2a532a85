"""Print as JSON what the engine accepts and answers; run by the engine's interpreter."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic_core import PydanticUndefined

from sparsevit.jobs import JOBS


def describe(field: Any) -> dict[str, Any]:
    """A field's default, words and bounds as plain values."""
    default = None if field.default is PydanticUndefined else field.default
    if field.default_factory is not None:
        default = field.default_factory()
    words = next((get_args(a) for a in (field.annotation, *get_args(field.annotation)) if get_origin(a) is Literal), ())
    bounds = {name: getattr(m, name) for m in field.metadata for name in ("gt", "ge", "lt", "le") if hasattr(m, name)}
    return {
        "required": field.is_required(),
        "default": str(default) if isinstance(default, Path) else default,
        "words": list(words),
        **bounds,
    }


def main() -> None:
    """Describe every job."""
    contract = {}
    for name in JOBS:
        module = import_module(f"sparsevit.jobs.{name.replace(' ', '_')}")
        request, result = (getattr(module, name.title().replace(" ", "") + kind) for kind in ("Request", "Result"))
        contract[name] = {
            "request": {leaf: describe(field) for _group, leaf, field in request.leaves()},
            "result": list(result.model_fields),
        }
    print(json.dumps(contract))  # noqa: T201 - the answer


main()
