"""What can go wrong with a case."""

from app.kernel.errors import Conflict, HallError, NotFound, TooLarge, ValidationFailed, WrongType


class CaseNotFound(NotFound):
    """No such case, or somebody else's: never told apart."""

    code = "case.not_found"

    def __init__(self) -> None:
        super().__init__("没有找到这个办件。", en="No such case.")


class CaseConflict(Conflict):
    """Somebody else changed the case first: reload, then decide again. The answer holds the stored `version`."""

    code = "case.conflict"
    public = ("version",)


class ActionNotAllowed(Conflict):
    """The case is in a state in which this cannot be done. The answer holds `state` and `allowed_actions`."""

    code = "case.action_not_allowed"
    public = ("state", "allowed_actions")


class Incomplete(ValidationFailed):
    """Everything that is missing or wrong, one row each."""

    code = "validation.failed"


class MaterialNotFound(NotFound):
    code = "case.material_not_found"


class FileTooLarge(TooLarge):
    code = "case.file_too_large"


class FileRefused(WrongType):
    """The content is not of an accepted kind, whatever its name says."""

    code = "case.file_type_not_accepted"


class FileBroken(HallError):
    code = "case.file_unreadable"
    status = 422
    title = "文件打不开"


class NothingDue(Conflict):
    """There is no fee to pay for this case now."""

    code = "case.nothing_due"


class FeeAlreadyPaid(Conflict):
    code = "order.already_paid"
