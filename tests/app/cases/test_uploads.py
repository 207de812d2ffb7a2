"""Uploads: the kind is judged by content, pictures are cleaned, dangerous or endless files are refused."""

import io

import pikepdf
import pytest
from PIL import Image

from app.cases.errors import FileBroken, FileRefused, FileTooLarge
from app.cases.uploads import MAX_FILE_BYTES, check_upload
from commands.story import picture


def photo(exif=None, size=(40, 20), form="JPEG"):
    out = io.BytesIO()
    Image.new("RGB", size, "white").save(out, form, **({"exif": exif} if exif else {}))
    return out.getvalue()


def pdf(change=lambda document: None, pages=1, **save):
    document = pikepdf.new()
    for _ in range(pages):
        document.add_blank_page()
    change(document)
    out = io.BytesIO()
    document.save(out, **save)
    return out.getvalue()


def test_the_name_does_not_decide():
    assert check_upload("photo.pdf", picture()).content_type == "image/png"
    with pytest.raises(FileRefused):
        check_upload("photo.png", b"<html><script>alert(1)</script></html>")
    with pytest.raises(FileRefused):
        check_upload("photo.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>')
    with pytest.raises(FileRefused):
        check_upload("a.exe", b"MZ" + b"\0" * 200)


def test_a_photo_is_turned_upright_and_loses_its_metadata():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010F] = "somebody's phone"
    kept = check_upload("a.jpg", photo(exif))
    with Image.open(io.BytesIO(kept.content)) as image:
        assert image.size == (20, 40)
        assert not image.getexif()


def test_what_hides_behind_a_picture_is_left_behind():
    assert b"<script>" not in check_upload("a.png", picture() + b"<script>alert(1)</script>").content


def test_limits():
    with pytest.raises(FileTooLarge):
        check_upload("a.png", b"\x89PNG\r\n\x1a\n" + b"\0" * MAX_FILE_BYTES)
    with pytest.raises(FileBroken, match="空"):
        check_upload("a.png", b"")
    with pytest.raises(FileBroken):
        check_upload("a.png", picture()[:45])
    with pytest.raises(FileBroken, match="页"):
        check_upload("a.pdf", pdf(pages=51))


def test_a_picture_that_claims_to_be_huge_is_not_decoded():
    small = picture()
    huge = small[:16] + (60_000).to_bytes(4) + (60_000).to_bytes(4) + small[24:]
    with pytest.raises(FileBroken):
        check_upload("a.png", huge)


def test_a_plain_pdf_passes_and_an_active_or_locked_one_does_not():
    assert check_upload("a.pdf", pdf()).content_type == "application/pdf"

    def act(document):
        document.Root["/OpenAction"] = pikepdf.Dictionary(S=pikepdf.Name("/JavaScript"), JS="app.alert(1)")

    with pytest.raises(FileBroken, match="脚本"):
        check_upload("a.pdf", pdf(act))
    def launch(document):
        action = pikepdf.Dictionary(S=pikepdf.Name("/Launch"), F="calc.exe")
        note = pikepdf.Dictionary(Type=pikepdf.Name("/Annot"), Subtype=pikepdf.Name("/Link"), A=action)
        document.pages[0].obj["/Annots"] = pikepdf.Array([note])

    def act_on_page(document):
        document.pages[0].obj["/AA"] = pikepdf.Dictionary(O=pikepdf.Dictionary(S=pikepdf.Name("/JavaScript"), JS="1"))

    for hidden in (launch, act_on_page):
        with pytest.raises(FileBroken, match="脚本"):
            check_upload("a.pdf", pdf(hidden))
    with pytest.raises(FileBroken, match="密码"):
        check_upload("a.pdf", pdf(encryption=pikepdf.Encryption(owner="o", user="u")))
    with pytest.raises(FileBroken):
        check_upload("a.pdf", b"%PDF-1.7\nnot really")


@pytest.mark.parametrize(
    ("name", "kept"), [("../../etc/passwd", "passwd"), ("C:\\我的\\照片.png", "照片.png"), ('a"b<c>.png', "abc.png"), ("", "未命名")]
)
def test_names_are_made_harmless(name, kept):
    assert check_upload(name, picture()).name == kept
