"""What can go wrong when somebody says who they are."""

from app.kernel.errors import Conflict, Forbidden, NotFound, Unauthorized, ValidationFailed, error_row


class TokenInvalid(Unauthorized):
    code = "auth.token_invalid"


class TokenExpired(Unauthorized):
    code = "auth.token_expired"
    title = "登录已过期"


class RefreshReused(Unauthorized):
    """An old refresh token came again: it may be stolen, so the whole session has ended."""

    code = "auth.refresh_reused"
    title = "登录已结束"

    def __init__(self, resident_id: str, session_id: str) -> None:
        super().__init__("为了您的账号安全，登录已结束，请重新登录。", en="This token was used before.")
        self.resident_id = resident_id
        self.session_id = session_id


class LoginRefused(Unauthorized):
    """The platform did not accept the login code."""

    code = "auth.login_refused"
    title = "登录没有成功"


class SmsCodeWrong(Unauthorized):
    code = "auth.sms_code_wrong"
    title = "验证码不对"


class StaffLoginRefused(Unauthorized):
    code = "auth.login_refused"
    title = "账号或密码不对"


class LevelRequired(Forbidden):
    """A higher identity level is needed; `required_level` is part of the answer."""

    code = "identity.level_required"
    title = "还差一步身份验证"
    public = ("required_level", "level")


class PhoneTaken(Conflict):
    code = "identity.phone_taken"
    title = "这个手机号已绑定"


class AlreadyVerified(Conflict):
    code = "identity.already_verified"


class FacePending(Conflict):
    code = "identity.face_pending"


class FaceCheckNotFound(NotFound):
    code = "identity.face_check_not_found"


class IdentityMismatch(ValidationFailed):
    code = "identity.mismatch"

    def __init__(self) -> None:
        super().__init__(
            [error_row("/id_number", "mismatch", "姓名和身份证号码对不上")],
            "姓名和身份证号码对不上，请核对后重试；确认无误仍不通过的，请带身份证到窗口或拨打12345。",
        )


class FaceFailed(ValidationFailed):
    code = "identity.face_failed"

    def __init__(self) -> None:
        super().__init__(
            [error_row("", "face_failed", "人脸核验没有通过")],
            "人脸核验没有通过，可以重试；不方便刷脸的，可以带身份证到窗口办理。",
        )
