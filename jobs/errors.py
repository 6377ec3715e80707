"""Every error that crosses a room, with the code, the HTTP status and the sentence a user acts on.

HonedError
  BadRequest                 400  the body, a field or a parameter cannot be honoured
    UnknownField             400  a key that nothing here reads
    GraderInvalid            400  a reward definition that cannot be run
    WrongState               400  the job's state does not allow it (clients would retry a 409)
  InvalidApiKey              401
  MissingScope               403  the key is good, and does not allow this
  NotOwner                   403  it may be used and not changed: it is another project's
  QuotaExceeded              403  the project stores as much as it may
  NotFound                   404
    JobNotFound  FileNotFound  UploadNotFound  ModelNotFound  CheckpointNotFound
    PermissionNotFound  ProjectNotFound  RouteNotFound
    Expired                  404  it was there until its time was over
  MethodNotAllowed           405
  BodyTooSlow                408  the body did not come in the time that bodies have
  Gone                       410  it was there, and its bytes are not
  BodyTooLarge               413
  IdempotencyKeyReused       422  the key belongs to another request
  TooManyRequests            429  the project has as much under way as it may
  Unavailable                503  a part that is needed does not answer now
    StorageFull              503  the disk has no room, or only what is kept for running jobs
    NoIsolation              503  this machine cannot run users' Python safely, as it is
    StoreAway                503  the artifact store on other machines does not answer
  JobFailure                  -   why a job ended `failed`; its code is a Reason
  LeaseLost                   -   the attempt that writes is no longer the job's attempt
  SchemaMismatch              -   the database is of another version than the code
"""

from __future__ import annotations

from typing import Any

from jobs.status import Reason


class HonedError(Exception):
    """Base of all: `message` is a sentence that is sufficient by itself."""

    status = 500
    type = "server_error"
    code: str | None = None
    retry_after_seconds: int | None = None
    """When it may be another answer; None where trying again changes nothing."""
    is_passing = True
    """Whether that may come without anybody doing something: clients then try again themselves."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code

    def envelope(self) -> dict[str, dict[str, str | None]]:
        """The wire form that every client knows: all four keys, always."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


class BadRequest(HonedError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class UnknownField(BadRequest):
    code = "unknown_field"


class GraderInvalid(BadRequest):
    code = "invalid_grader"


class WrongState(BadRequest):
    code = "wrong_state"


class InvalidApiKey(HonedError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class MissingScope(HonedError):
    status = 403
    type = "invalid_request_error"
    code = "missing_scope"


class NotOwner(HonedError):
    status = 403
    type = "invalid_request_error"
    code = "not_owner"


class QuotaExceeded(HonedError):
    status = 403
    type = "invalid_request_error"
    code = "storage_quota_exceeded"


class NotFound(HonedError):
    status = 404
    type = "invalid_request_error"
    code: str | None = "not_found"


class Expired(NotFound):
    code = "expired"


class JobNotFound(NotFound):
    code = "fine_tune_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Could not find fine tune: {job_id}", param="fine_tune_id")


class FileNotFound(NotFound):
    code = None

    def __init__(self, file_id: str, *, param: str = "id") -> None:
        super().__init__(f"No such File object: {file_id}", param=param)


class UploadNotFound(NotFound):
    code = "upload_not_found"

    def __init__(self, upload_id: str) -> None:
        super().__init__(f"No such Upload object: {upload_id}", param="upload_id")


class CheckpointNotFound(NotFound):
    code = "checkpoint_not_found"

    def __init__(self, checkpoint_id: str, *, param: str = "checkpoint_id") -> None:
        super().__init__(f"No such checkpoint: {checkpoint_id}", param=param)


class PermissionNotFound(NotFound):
    code = "permission_not_found"

    def __init__(self, permission_id: str, *, param: str = "permission_id") -> None:
        super().__init__(f"No such permission of this checkpoint: {permission_id}", param=param)


class ProjectNotFound(NotFound):
    code = "project_not_found"

    def __init__(self, project_id: str) -> None:
        super().__init__(
            f"No such project: {project_id}; `honed projects list` shows the ids.",
            param="project_ids",
        )


class ModelNotFound(NotFound):
    code = "model_not_found"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message, param="model", code=code)


class RouteNotFound(NotFound):
    code = "unknown_url"


class MethodNotAllowed(HonedError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class BodyTooSlow(HonedError):
    status = 408
    type = "invalid_request_error"
    code = "body_too_slow"


class Gone(HonedError):
    status = 410
    type = "invalid_request_error"
    code = "artifact_missing"


class BodyTooLarge(HonedError):
    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class IdempotencyKeyReused(HonedError):
    status = 422
    type = "invalid_request_error"
    code = "idempotency_key_reused"


class TooManyRequests(HonedError):
    status = 429
    type = "invalid_request_error"
    code = "rate_limit_exceeded"
    retry_after_seconds = 2


class Unavailable(HonedError):
    status = 503
    type = "server_error"
    code = "unavailable"
    retry_after_seconds = 5


class StorageFull(Unavailable):
    code = "storage_full"


class NoIsolation(Unavailable):
    """Python graders cannot run here; the message says why and what to install."""

    code = "no_isolation"
    # A machine that offered nothing is asked again after so long.
    retry_after_seconds = 30
    is_passing = False


class StoreAway(Unavailable):
    """Bytes could be neither kept nor read; `reason` says in a few words what came instead."""

    code = "artifact_store_unavailable"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class JobFailure(Exception):
    """Ends a job as `failed`: a typed reason, one plain sentence, and the field at fault.

    `data` is what the event tells beside the sentence, for programs.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        param: str | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.param = param
        self.data = data


class LeaseLost(Exception):
    """This attempt is no longer the job's: nothing it writes counts, and it must stop."""


class SchemaMismatch(Exception):
    """The database is of another version than this code; the message says what to run."""
