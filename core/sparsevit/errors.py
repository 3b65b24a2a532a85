"""The small family of errors a user may see: what is wrong, which parameter, what to do."""

from __future__ import annotations


class SparseViTError(Exception):
    """An error that is shown to the user as one sentence, never as a traceback.

    Args:
        message: What is wrong; names the file or value.
        parameter: The job field at fault, where there is one.
        hint: What to do next.
    """

    kind = "error"

    def __init__(self, message: str, parameter: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.parameter = parameter
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class InputError(SparseViTError):
    """A request cannot work as given: a file, a value or a combination of both."""

    kind = "input"


class ResourceError(SparseViTError):
    """The machine cannot do it: memory, disk, device."""

    kind = "resource"


class CancelledError(SparseViTError):
    """The user asked to stop."""

    kind = "cancelled"

    def __init__(self) -> None:
        super().__init__("Cancelled.")
