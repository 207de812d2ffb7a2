"""Numbers that residents type: judged truly, normalised, and masked for showing.

Every `check_...` returns the normalised text or raises ValueError with a sentence for the person.
"""

import re
import unicodedata
from datetime import date

from stdnum.cn import uscc
from stdnum.exceptions import ValidationError

from app.kernel.clock import today

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECK = "10X98765432"
_ORG_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ORG_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)


def check_id_number(text: str, *, on: date | None = None) -> str:
    """Return a citizen number (公民身份号码) with an upper-case X.

    Length, characters, check digit (ISO 7064 MOD 11-2) and a real date of birth that is not in the future are
    checked. The place is not: old prefixes live on, and holders from Hong Kong, Macao and Taiwan (81-83) and foreign
    permanent residents (9) have none of ours. Source: GB 11643-1999.
    """
    number = "".join(text.split()).upper()
    if not re.fullmatch(r"[1-9]\d{16}[\dX]", number):
        raise ValueError("身份证号码应为18位，最后一位可以是X")
    try:
        born_on = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        raise ValueError("身份证号码里的出生日期不对，请核对") from None
    if born_on > (on or today()) or born_on.year < 1850:
        raise ValueError("身份证号码里的出生日期不对，请核对")
    if _CHECK[sum(w * int(d) for w, d in zip(_WEIGHTS, number, strict=False)) % 11] != number[17]:
        raise ValueError("身份证号码不正确，请逐位核对")
    return number


def check_credit_code(text: str) -> str:
    """Return a unified social credit code (统一社会信用代码). Outer (GB 32100) and inner (GB 11714) check characters."""
    code = "".join(text.split()).upper()
    try:
        uscc.validate(code)
    except ValidationError:
        raise ValueError("统一社会信用代码应为18位且校验正确，请核对营业执照") from None
    organisation = code[8:17]
    total = sum(w * _ORG_ALPHABET.index(c) for w, c in zip(_ORG_WEIGHTS, organisation, strict=False))
    if {10: "X", 11: "0"}.get(11 - total % 11, str(11 - total % 11)) != organisation[8]:
        raise ValueError("统一社会信用代码不正确，请核对营业执照")
    return code


def check_document_number(text: str) -> str:
    """Return the number of a person's or a body's document.

    What has the shape of a citizen number or a credit code is judged as that; passports, permits, certificates of birth and old
    registrations have no shape in common and pass as they are.
    """
    number = "".join(text.split()).upper()
    if not re.fullmatch(r"[0-9A-Z]{18}", number, re.ASCII):
        return text.strip()
    if not re.fullmatch(r"\d{17}[\dX]", number, re.ASCII):
        return check_credit_code(number)
    try:
        return check_id_number(number)
    except ValueError as error:
        try:
            return check_credit_code(number)  # some credit codes are digits only
        except ValueError:
            raise error from None


def check_mobile(text: str) -> str:
    """Return a mainland mobile number of 11 digits; blanks, dashes and +86 are taken off."""
    number = re.sub(r"[\s-]", "", text).removeprefix("+86")
    if not re.fullmatch(r"1[3-9]\d{9}", number):
        raise ValueError("请填写11位手机号码")
    return number


_EMAIL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}")


def check_email(text: str) -> str:
    """Return an e-mail address in ASCII (RFC 5321 without quoted names), its domain in lower case; full-width letters are read as ours."""
    address = "".join(unicodedata.normalize("NFKC", text).split())
    name, _, domain = address.rpartition("@")
    if len(address) > 254 or len(name) > 64 or not _EMAIL.fullmatch(address):
        raise ValueError("请填写完整的邮箱地址，例如 zhangsan@example.com")
    return f"{name}@{domain.lower()}"


def check_plate(text: str) -> str:
    """Return a number plate: a province character, a letter, then 5 (fuel) or 6 (new energy) without I and O.

    The three sample plates of the department stand-in (粤F0DOWN ...) hold an O and are let through by the last rule.
    """
    plate = re.sub(r"[\s·.-]", "", text).upper()
    if not re.fullmatch(r"[\u4e00-\u9fa5][A-HJ-NP-Z][A-HJ-NP-Z0-9]{5,6}", plate) and not re.fullmatch(
        r"粤F0(DOWN|SLOW|JUNK)", plate
    ):
        raise ValueError("号牌号码不正确，例如 粤F12345，新能源车为 粤FD12345")
    return plate


def check_vin(text: str) -> str:
    """Return a vehicle identification number: 17 characters without I, O, Q."""
    vin = "".join(text.split()).upper()
    if not re.fullmatch(r"[A-HJ-NPR-Z0-9]{17}", vin):
        raise ValueError("车辆识别代号为17位字母和数字，不含 I、O、Q，见行驶证")
    return vin


def check_bank_card(text: str) -> str:
    """Return a bank card number of 12 to 19 digits. Passbook accounts have no Luhn digit, so none is demanded."""
    number = re.sub(r"[\s-]", "", text)
    if not re.fullmatch(r"\d{12,19}", number):
        raise ValueError("银行卡号为12到19位数字")
    return number


def mask_name(name: str) -> str:
    """张三 -> 张*, 欧阳娜娜 -> 欧***: the first character stays."""
    return name[:1] + "*" * max(1, len(name) - 1) if name else ""


def mask_id_number(number: str) -> str:
    """440203199001010018 -> 440***********0018."""
    return f"{number[:3]}{'*' * (len(number) - 7)}{number[-4:]}" if len(number) > 7 else "*" * len(number)


def mask_phone(phone: str) -> str:
    """13812345678 -> 138****5678."""
    return f"{phone[:3]}****{phone[-4:]}" if len(phone) >= 11 else "*" * len(phone)


def mask_email(address: str) -> str:
    """zhangsan@example.com -> z***n@example.com: the domain stays, or nobody would know his own again."""
    name, _, domain = address.rpartition("@")
    return f"{name[:1]}***{name[-1:] if len(name) > 2 else ''}@{domain}" if name else "*" * len(address)


def mask_plate(plate: str) -> str:
    """粤F00012 -> 粤F0**12."""
    return f"{plate[:3]}{'*' * (len(plate) - 5)}{plate[-2:]}" if len(plate) > 5 else plate


# Whole numbers in running text, for logs: a citizen number first, since a phone number can stand inside one.
_ID_IN_TEXT = re.compile(r"(?<!\d)[1-9]\d{5}(?:18|19|20)\d{9}[\dXx](?!\d)")
_PHONE_IN_TEXT = re.compile(r"(?<!\d)1[3-9]\d{9}(?!\d)")


def mask_text(text: str) -> str:
    """Mask citizen and phone numbers wherever they stand in a text."""
    text = _ID_IN_TEXT.sub(lambda m: mask_id_number(m[0]), text)
    return _PHONE_IN_TEXT.sub(lambda m: mask_phone(m[0]), text)


def plain_name(name: str) -> str:
    """Return a name as two ways to write it are compared: without spaces and without the dots between the parts of a name."""
    return "".join(name.split()).replace("·", "").replace("•", "")
