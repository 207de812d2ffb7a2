"""A consultation at a window (窗口咨询): whoever was asked shows a QR code, by which the person may rate this answer, once."""


from app.kernel.errors import NotFound
from handlers.pages_pay import qr
from handlers.pages_staff import StaffPage, items_of


class Consultation(StaffPage):
    async def get(self) -> None:
        await self.show("staff_consultation.html", items=items_of(self.hall, self.staff.agency_id), made=None)

    async def post(self) -> None:
        contact_id, item_code = self.once("con"), self.text("item_code", limit=50)
        if item_code and item_code not in items_of(self.hall, self.staff.agency_id):
            raise NotFound("没有这个事项，请返回重新选。", en="No such item.")
        made = await self.hall.feedback.consulted(self.staff, contact_id, item_code)
        link = f"{self.hall.settings.public_url}/rate/{made['code']}"
        await self.show(
            "staff_consultation.html",
            items=items_of(self.hall, self.staff.agency_id),
            made=made,
            drawn=qr(link, "评价这次咨询的二维码"),
            tablet=f"/rate/{made['code']}?via=tablet",
        )


routes = [(r"/staff/consultations", Consultation)]
