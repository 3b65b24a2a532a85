"""What every job has in common: a typed request, a typed result, a name, and `run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from sparsevit.errors import InputError, ResourceError
from sparsevit.reporting import Reporter


class Request(BaseModel):
    """The base of all requests.

    A request is written flat: a key that belongs to one of the nested settings finds its way there,
    so `{"epochs": 3}` and `{"training": {"epochs": 3}}` mean the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        homes = {leaf: group for group, leaf, _ in cls.leaves() if group}
        nested: dict[str, Any] = {}
        for key, value in values.items():
            if key in homes:
                group = nested.setdefault(homes[key], {})
                if isinstance(group, dict):
                    group[key] = value
            elif isinstance(value, dict) and isinstance(nested.get(key), dict):
                nested[key].update(value)
            else:
                nested[key] = value
        return nested

    @classmethod
    def leaves(cls) -> Iterator[tuple[str | None, str, FieldInfo]]:
        """Yield `(settings group or None, name, field)` for every value a user may set."""
        for name, field in cls.model_fields.items():
            group = _settings_type(field.annotation)
            if group is None:
                yield None, name, field
            else:
                for leaf, leaf_field in group.__pydantic_fields__.items():
                    yield name, leaf, leaf_field


class Result(BaseModel):
    """The base of all results; what a caller gets back when the job is done."""

    model_config = ConfigDict(frozen=True)


@dataclass(frozen=True)
class Job:
    """A thing that can be asked of the engine."""

    name: str
    request: type[Request]
    run: Callable[[Any, Reporter], Result]

    @property
    def summary(self) -> str:
        """The first sentence of the request's docstring."""
        return (self.request.__doc__ or "").strip().splitlines()[0]

    def execute(self, params: dict[str, Any], reporter: Reporter) -> Result:
        """Check the parameters and do the job.

        Raises:
            SparseViTError: With a sentence for the user: wrong input, missing resources, or cancelled.
        """
        request = self.parse(params)
        with resource_errors(self.name, [name for _, name, _ in self.request.leaves() if name.endswith("batch")]):
            return self.run(request, reporter)

    def parse(self, params: dict[str, Any]) -> Request:
        """Turn plain values into a request.

        Raises:
            InputError: A value is missing, unknown or out of its bounds; names the parameter.
        """
        try:
            return self.request.model_validate(params)
        except ValidationError as err:
            first = err.errors()[0]
            fields = {name for _, name, _ in self.request.leaves()}
            named = [str(p) for p in reversed(first["loc"]) if isinstance(p, str)]
            parameter = next((p for p in named if p in fields), named[0] if named else "")
            given = "" if first["type"] in ("missing", "extra_forbidden") else f" (got {first['input']!r})"
            message = first["msg"].removeprefix("Value error, ")
            raise InputError(
                f"{self.name}: parameter '{parameter}': {message}{given}.",
                parameter,
                f"See `sparsevit {self.name} --help`.",
            ) from err


@contextmanager
def resource_errors(what: str, batches: list[str]) -> Iterator[None]:
    """Say in a sentence that something ran out of disk, permissions or memory.

    Args:
        what: Name of what is done.
        batches: Parameters that make it need less memory.

    Raises:
        ResourceError: In place of what the system or torch raised.
    """
    try:
        yield
    except OSError as err:
        raise ResourceError(f"{what}: {err}.", None, "Check free disk space, permissions and the path.") from err
    except (MemoryError, RuntimeError) as err:
        if not (isinstance(err, MemoryError) or "out of memory" in str(err) or "allocate memory" in str(err)):
            raise
        smaller = " or ".join(f"'{name}'" for name in batches)
        hint = f"Use a smaller {smaller}, a smaller preset, or another device." if batches else "Use a part of the map."
        raise ResourceError(f"{what}: out of memory.", batches[0] if len(batches) == 1 else None, hint) from err


def _settings_type(annotation: Any) -> Any | None:
    candidates = get_args(annotation) or (annotation,)
    return next((c for c in candidates if isinstance(c, type) and is_dataclass(c)), None)


def absolute(path: Path) -> str:
    """The absolute path as text, as results report it."""
    return str(path.expanduser().resolve())
