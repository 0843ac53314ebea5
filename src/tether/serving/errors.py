"""What a request is refused with: an HTTP status, the field that is wrong, and one line for people."""

from __future__ import annotations

from tether.errors import TetherError

__all__ = ["Refused", "busy", "invalid", "not_found", "too_large"]


class Refused(TetherError):
    """A request that is not done.

    Args:
        status: of HTTP.
        code: a word for programs: "invalid", "too_large", "queue_full", "not_found", ...
        message: one line for people.
        field: the place in the request, such as "controls.0.strength".
        retry_after: seconds after which it may be sent again.
        accepted: whether the request was accepted before: sent again, it would be done twice. OpenAI's clients repeat
            requests by themselves unless they are told.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        retry_after: int | None = None,
        accepted: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field, self.retry_after = status, code, message, field, retry_after
        self.accepted = accepted


def invalid(field: str | None, message: str) -> Refused:
    """422: a value that cannot be right."""
    return Refused(422, "invalid", message, field=field)


def too_large(message: str, field: str | None = None) -> Refused:
    """413: more bytes or pixels than the server takes."""
    return Refused(413, "too_large", message, field=field)


def not_found(message: str) -> Refused:
    """404."""
    return Refused(404, "not_found", message)


def busy(message: str, seconds: float, status: int = 429) -> Refused:
    """429 (or 503): full for now; Retry-After says for how long, at least one second."""
    return Refused(status, "queue_full" if status == 429 else "busy", message, retry_after=max(1, round(seconds)))
