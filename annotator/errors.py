"""Every way Winnow says no.

Actions raise one of these with the value found, the value wanted and what to do. The faces translate once:
pages answer with the same form and status ``status``, the API with ``{"code", "message", "fields"}``,
a job with its log. ``code`` is stable; ``message`` is for people and may change.
"""


class WinnowError(Exception):
    """A refusal with a sentence a person can act on. ``fields`` maps form fields to their own sentence."""

    code = "refused"
    status = 422

    def __init__(self, message: str, *, fields: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields or {}


class InvalidSettings(WinnowError):
    code = "invalid_settings"


class InvalidAnnotation(WinnowError):
    code = "invalid_annotation"


class ClassArchived(InvalidAnnotation):
    """The class was one of the project's, and is not asked for any more."""

    code = "class_archived"


class InvalidClass(WinnowError):
    code = "invalid_class"


class InvalidFilter(WinnowError):
    code = "invalid_filter"


class InvalidImport(WinnowError):
    code = "invalid_import"


class InvalidExport(WinnowError):
    code = "invalid_export"


class Conflict(WinnowError):
    """Somebody else was there first; nothing was written."""

    code = "conflict"
    status = 409


class LeaseLost(Conflict):
    """The item is held or was answered by another person."""

    code = "lease_lost"


class NotAllowed(WinnowError):
    """A member whose role does not include this; outsiders get a 404 instead."""

    code = "not_allowed"
    status = 403


class NotFound(WinnowError):
    code = "not_found"
    status = 404


class JobLost(Exception):
    """This run of the job is no longer the current one: it was cancelled, or taken over after a silence."""


class JobCancelled(JobLost):
    """Somebody pressed cancel. The run stops at the next progress report."""
