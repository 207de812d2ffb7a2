"""What can go wrong with a case."""

from app.kernel.errors import Conflict, HallError, NotFound, RateLimited, TooLarge, ValidationFailed, WrongType


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


class ItemWithdrawn(Conflict):
    """The item is not offered any more: its drafts stay readable and are not handed in."""

    code = "case.item_withdrawn"

    def __init__(self) -> None:
        super().__init__(
            "这个事项已经停办，不能再提交；您填写的内容还在，可以随时查看。请看看有没有替代的事项，或拨打12345询问。",
            en="This item is not offered any more. What you have filled in stays readable.",
        )


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


class FileInfected(HallError):
    """The malware scanner found something; nothing of the file was kept."""

    code = "case.file_infected"
    status = 422
    title = "文件不安全"

    def __init__(self) -> None:
        super().__init__(
            "这个文件没有通过安全检查，可能带有病毒，没有保存。请换一台设备重新拍照或扫描后再传。",
            en="The malware check found something in this file; it was not kept.",
        )


class FileUnchecked(Conflict):
    """The malware scanner has not looked at the file yet."""

    code = "case.file_unchecked"

    def __init__(self) -> None:
        super().__init__("这个文件还在做安全检查，请几分钟后再看。", en="The malware check of this file is still to come.")


class UploadNotFound(NotFound):
    """No such upload, somebody else's, or over for more than a day."""

    code = "upload.not_found"

    def __init__(self) -> None:
        super().__init__("没有找到这次上传，可能已经超过一天，请重新选择文件。", en="No such upload; start again.")


class UploadIncomplete(Conflict):
    """Pieces are missing: send those in `missing`, then complete again."""

    code = "upload.incomplete"
    public = ("missing",)


class UploadBroken(HallError):
    """What arrived is not what was announced; its pieces were dropped: send them again."""

    code = "upload.checksum_mismatch"
    status = 422
    title = "文件没有传完整"


class TooMuchWaiting(RateLimited):
    """Too many unfinished uploads of one person."""

    code = "upload.too_much_waiting"


class NothingDue(Conflict):
    """There is no fee to pay for this case now."""

    code = "case.nothing_due"


class FeeAlreadyPaid(Conflict):
    code = "order.already_paid"


class PaperNotFound(NotFound):
    """No such paper, of another case, or a wrong code: never told apart."""

    code = "paper.not_found"

    def __init__(self) -> None:
        super().__init__("没有找到这份文书，请对照文书核对编号和核验码。", en="No such paper, or the code is wrong.")
