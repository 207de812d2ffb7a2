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


class DraftConflict(CaseConflict):
    """The draft was saved elsewhere meanwhile.

    The answer holds `version`, `values` and `answers` as they are stored now; `conflicts`: [{key, pointer, label, yours, theirs}] where
    both changed the same answer; `merged`: what of this save was kept (with `merge`), `mergeable`: what would be.
    """

    public = ()

    def __init__(self, **told: object) -> None:
        super().__init__(
            "这份表在别处也改过，您刚填的内容还在本页。请看看两边不一样的地方。",
            en="The draft was changed elsewhere: see `conflicts`, or save again with `merge`.",
        )
        self.answer_only = told  # answers of a person: for the caller, never for the log


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
