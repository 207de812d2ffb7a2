"""Uploads: the kind is judged by content, pictures are cleaned, dangerous or endless files are refused."""

import io
import time
import zipfile
import zlib

import pikepdf
import pytest
from PIL import Image, PngImagePlugin

from app.cases import isolation
from app.cases.errors import FileBroken, FileRefused, FileTooLarge
from app.cases.uploads import MAX_FILE_BYTES, judge_upload
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


async def test_the_name_does_not_decide():
    assert (await judge_upload("photo.pdf", picture())).content_type == "image/png"
    with pytest.raises(FileRefused):
        await judge_upload("photo.png", b"<html><script>alert(1)</script></html>")
    with pytest.raises(FileRefused):
        await judge_upload("photo.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>')
    with pytest.raises(FileRefused):
        await judge_upload("a.exe", b"MZ" + b"\0" * 200)


async def test_a_photo_is_turned_upright_and_loses_its_metadata():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010F] = "somebody's phone"
    exif.get_ifd(0x8825)[2] = (24.0, 48.0, 36.0)  # where it was taken
    kept = await judge_upload("a.jpg", photo(exif))
    with Image.open(io.BytesIO(kept.content)) as image:
        assert image.size == (20, 40)
        assert not image.getexif()
        assert b"phone" not in kept.content and b"Exif" not in kept.content


async def test_text_profiles_and_thumbnails_do_not_come_back_with_a_png_or_webp():
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "taken at home")
    out = io.BytesIO()
    Image.new("RGB", (30, 30), "white").save(out, "PNG", pnginfo=note, icc_profile=b"secret profile" * 20)
    kept = (await judge_upload("a.png", out.getvalue())).content
    assert b"home" not in kept and b"iCCP" not in kept and b"tEXt" not in kept
    exif = Image.Exif()
    exif[0x010F] = "somebody's phone"
    kept = (await judge_upload("a.webp", photo(exif, form="WEBP"))).content
    assert b"phone" not in kept and b"EXIF" not in kept


async def test_what_hides_behind_a_picture_is_left_behind():
    assert b"<script>" not in (await judge_upload("a.png", picture() + b"<script>alert(1)</script>")).content


async def test_limits():
    with pytest.raises(FileTooLarge):
        await judge_upload("a.png", b"\x89PNG\r\n\x1a\n" + b"\0" * MAX_FILE_BYTES)
    with pytest.raises(FileBroken, match="空"):
        await judge_upload("a.png", b"")
    with pytest.raises(FileBroken):
        await judge_upload("a.png", picture()[:45])
    with pytest.raises(FileBroken, match="页"):
        await judge_upload("a.pdf", pdf(pages=51))


async def test_a_picture_that_claims_to_be_huge_is_not_decoded():
    small = picture()
    huge = small[:16] + (60_000).to_bytes(4) + (60_000).to_bytes(4) + small[24:]
    with pytest.raises(FileBroken):
        await judge_upload("a.png", huge)


async def test_a_plain_pdf_passes_and_an_active_or_locked_one_does_not():
    assert (await judge_upload("a.pdf", pdf())).content_type == "application/pdf"

    def act(document):
        document.Root["/OpenAction"] = pikepdf.Dictionary(S=pikepdf.Name("/JavaScript"), JS="app.alert(1)")

    with pytest.raises(FileBroken, match="脚本"):
        await judge_upload("a.pdf", pdf(act))
    def launch(document):
        action = pikepdf.Dictionary(S=pikepdf.Name("/Launch"), F="calc.exe")
        note = pikepdf.Dictionary(Type=pikepdf.Name("/Annot"), Subtype=pikepdf.Name("/Link"), A=action)
        document.pages[0].obj["/Annots"] = pikepdf.Array([note])

    def act_on_page(document):
        document.pages[0].obj["/AA"] = pikepdf.Dictionary(O=pikepdf.Dictionary(S=pikepdf.Name("/JavaScript"), JS="1"))

    for hidden in (launch, act_on_page):
        with pytest.raises(FileBroken, match="脚本"):
            await judge_upload("a.pdf", pdf(hidden))
    with pytest.raises(FileBroken, match="密码"):
        await judge_upload("a.pdf", pdf(encryption=pikepdf.Encryption(owner="o", user="u")))
    with pytest.raises(FileBroken):
        await judge_upload("a.pdf", b"%PDF-1.7\nnot really")


async def test_where_a_pdf_opens_is_no_script():
    def opens_at(document):
        document.Root["/OpenAction"] = pikepdf.Array([document.pages[0].obj, pikepdf.Name("/Fit")])

    assert (await judge_upload("a.pdf", pdf(opens_at, pages=2))).pages == 2


async def test_scripts_are_found_wherever_they_hide():
    def in_outline(document):
        action = pikepdf.Dictionary(S=pikepdf.Name("/GoTo"), Next=pikepdf.Dictionary(S=pikepdf.Name("/JavaScript"), JS="1"))
        document.Root["/Outlines"] = document.make_indirect(pikepdf.Dictionary(First=document.make_indirect(pikepdf.Dictionary(A=action))))

    def attached(document):
        document.attachments["a.exe"] = b"MZ"

    def as_form(document):
        document.Root["/AcroForm"] = pikepdf.Dictionary(XFA=document.make_stream(b"<xdp/>"))

    for hidden in (in_outline, attached, as_form):
        for packed in (pikepdf.ObjectStreamMode.disable, pikepdf.ObjectStreamMode.generate):
            with pytest.raises(FileBroken, match="脚本"):
                await judge_upload("a.pdf", pdf(hidden, object_stream_mode=packed))


async def test_a_pdf_that_is_also_something_else_is_refused():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("evil.class", b"x" * 2000)
    with pytest.raises(FileBroken, match="夹带"):
        await judge_upload("a.pdf", pdf() + archive.getvalue())
    with pytest.raises((FileBroken, FileRefused)):
        await judge_upload("a.pdf", b"<script>alert(1)</script>\n" + pdf())


async def test_a_pdf_that_unpacks_to_gigabytes_ends_its_own_process_only():
    def bomb(document):
        # More than a gigabyte of blanks in some megabytes.
        packer = zlib.compressobj(1)
        data = b"".join(packer.compress(b" " * 2**24) for _ in range(80)) + packer.flush()
        stream = pikepdf.Stream(document, b"")
        stream.write(data, filter=pikepdf.Name("/FlateDecode"))
        document.Root["/Metadata"] = document.make_indirect(stream)
        document.pages[0].obj["/Contents"] = document.make_indirect(stream)

    began = time.monotonic()
    content = pdf(bomb)
    assert len(content) < MAX_FILE_BYTES
    try:
        await judge_upload("a.pdf", content)  # reading its structure needs none of it: kept, and drawing it is bounded too
    except FileBroken:
        pass
    try:
        said, _made = await isolation.run("preview", content, {"content_type": "application/pdf", "page": 1, "mark": "仅供办理"})
        assert said
    except isolation.Failed:
        pass
    assert time.monotonic() - began < 60
    assert (await judge_upload("b.pdf", pdf())).pages == 1


async def test_what_is_kept_obeys_the_limit_too():
    noise = Image.effect_noise((2600, 2600), 90).convert("RGB")
    out = io.BytesIO()
    noise.save(out, "WEBP", quality=80)
    assert len(out.getvalue()) < MAX_FILE_BYTES
    kept = await judge_upload("a.webp", out.getvalue())
    assert len(kept.content) <= MAX_FILE_BYTES


@pytest.mark.parametrize(
    ("name", "kept"), [("../../etc/passwd", "passwd"), ("C:\\我的\\照片.png", "照片.png"), ('a"b<c>.png', "abc.png"), ("", "未命名")]
)
async def test_names_are_made_harmless(name, kept):
    assert (await judge_upload(name, picture())).name == kept
