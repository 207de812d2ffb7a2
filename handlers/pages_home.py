"""The first screen, finding an item, and what an item asks: pages that need no sign-in and no database."""

from collections.abc import Mapping
from typing import Any

from app.catalogue import model
from app.catalogue.snapshot import ItemFilter
from app.kernel.clock import today
from handlers import pages_forms, pages_text
from handlers.pages_base import CITY, DIVISION_COOKIE, YEAR_S, PageHandler, local_path
from handlers.pages_subscriptions import follows
from push.subscriptions import ITEM, THEME

HOT_ON_HOME = 8
EVENTS_ON_HOME = 8
NOTICES_ON_HOME = 1


def with_line(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a list with the line that stands under its name: how long, how much, who."""
    if row["kind"] != "handle":
        return {**row, "line": row["agency"]["name"]}
    fee = row["fee_from_fen"]
    price = "不收费" if fee == 0 else f"{pages_text.yuan(fee)}元起" if fee else "费用按规定计算"
    return {**row, "line": f"{pages_text.limit(row['promised_limit'])}，{price}"}


class Home(PageHandler):
    tab = "home"

    async def get(self) -> None:
        home = self.hall.catalogue.snapshot.home(self.division, today())
        await self.show(
            "home.html",
            q="",
            place=self.hall.catalogue.division(self.division)["name"],
            hot=[with_line(row) for row in home["hot_items"][:HOT_ON_HOME]],
            life_events=[row["name"] for row in home["life_events"][:EVENTS_ON_HOME]],
            notices=home["notices"][:NOTICES_ON_HOME],
        )


class Search(PageHandler):
    tab = "home"

    async def get(self) -> None:
        q = self.text("q", limit=100).strip()
        snapshot = self.hall.catalogue.snapshot
        found = snapshot.search(q, division=self.division) if q else {"items": [], "knowledge": [], "agencies": []}
        await self.show(
            "search.html",
            q=q,
            items=found["items"],
            knowledge=found["knowledge"],
            agencies=found["agencies"],
            count=sum(len(found[part]) for part in ("items", "knowledge", "agencies")),
            hot=snapshot.home(self.division, today())["hot_items"][:HOT_ON_HOME],
            back="/",
        )


class Items(PageHandler):
    """Every item, by theme, life event, agency or kind."""

    tab = "home"

    async def get(self) -> None:
        wanted = {name: self.text(name, limit=60) for name in ("theme", "life_event", "agency", "audience", "kind")}
        snapshot = self.hall.catalogue.snapshot
        # With an agency asked for, everything it does is shown, wherever the person lives.
        items = snapshot.find_items(ItemFilter(**wanted, division="" if wanted["agency"] else self.division))
        agency = snapshot.agency(wanted["agency"])["name"] if wanted["agency"] else ""
        await self.show(
            "items.html",
            q="",
            heading=wanted["theme"] or wanted["life_event"] or agency or ("办事" if wanted["kind"] == "handle" else "全部事项"),
            items=[with_line(snapshot.rows[item["alias"]]) for item in items],
            themes=[row["name"] for row in snapshot.themes],
            follow=await self._follow(wanted["theme"]),
            back="/",
            **wanted,
        )


    async def _follow(self, theme: str) -> dict[str, Any] | None:
        if not any(row["name"] == theme for row in self.hall.catalogue.snapshot.themes):
            return None
        is_on = await follows(self, THEME, theme)
        return {"kind": THEME, "key": theme, "on": is_on, "offer": "这类事项有消息告诉我", "is": "这类事项有新的会告诉您"}


class Item(PageHandler):
    """The guide of an item; with the situation questions answered, only what this person has to bring."""

    tab = "home"

    async def get(self, code: str) -> None:
        item = self.hall.catalogue.item(code)
        sent = {name: self.get_query_arguments(name) for name in self.request.query_arguments}
        given = pages_forms.read_answers(item["situations"], sent)
        answers = {key: value for key, value in given.items() if key not in model.wrong_answers(item, given)}
        fees = model.visible_fees(item, answers) if answers else item["fees"]
        await self.show(
            "item.html",
            item=item,
            agency=self.hall.catalogue.handling_agency(item, self.division),
            level=int(item["identity_level"][1:]),
            answers=answers,
            answers_query={f"q.{key}": value for key, value in answers.items()},
            materials=model.visible_materials(item, answers) if answers else item["materials"],
            photos=photo_labels(item, answers),
            fees=fees,
            fee_line=fee_line(item, fees),
            follow={
                "kind": ITEM,
                "key": item["alias"],
                "on": await follows(self, ITEM, item["alias"]),
                "offer": "有消息告诉我",
                "is": "开放办理或有变化时会告诉您",
            },
            back="/items?kind=" + item["service_kind"],
        )


def photo_labels(item: Mapping[str, Any], answers: Mapping[str, Any]) -> list[str]:
    """Return the photos that the form asks for and that are no material of their own."""
    fields = model.visible_fields(item, answers) if answers else item["form"]
    materials = {row["key"] for row in item["materials"]}
    return [field["label"] for field in fields if field["type"] == "photo" and field["key"] not in materials]


def fee_line(item: Mapping[str, Any], fees: Any) -> str:
    """Return the price in a few words."""
    if item["service_kind"] != "handle" or any(fee["amount_fen"] is None for fee in fees):
        return "按规定计算" if fees or item["service_kind"] == "pay" else "不收费"
    amounts = sorted({fee["amount_fen"] for fee in fees})
    if not amounts or amounts == [0]:
        return "不收费"
    return f"{pages_text.yuan(amounts[0])} 元" + ("起" if len(amounts) > 1 else "")


class Divisions(PageHandler):
    """Where somebody lives decides what is shown first; kept in a cookie."""

    async def get(self) -> None:
        way = local_path(self.text("next", "/"))
        await self.show("divisions.html", counties=self.division_groups, chosen=self.division, next=way, back=way)

    async def post(self) -> None:
        chosen = self.text("division", CITY, 12)
        if self.hall.catalogue.division(chosen):
            self.set_cookie(DIVISION_COOKIE, chosen, max_age=YEAR_S, path="/")
        self.redirect(local_path(self.text("next", "/")), status=303)


class Halls(PageHandler):
    """The halls and their windows, for whoever would rather go there: those of the chosen place first."""

    tab = "home"

    async def get(self) -> None:
        place = self.hall.catalogue.division(self.division)
        county = place["parent"] if place["level"] == "town" else place["code"]
        halls = sorted(
            self.hall.catalogue.snapshot.catalogue.halls,
            key=lambda hall: (hall["division"] != place["code"], hall["division"] != county, hall["level"]),
        )
        await self.show("halls.html", halls=halls, place=place["name"], back="/")


class Elder(PageHandler):
    """POST /elder: the version with large letters, kept in a cookie."""

    async def get(self) -> None:
        self.redirect("/", status=303)

    async def post(self) -> None:
        is_on = self.text("on") == "1"
        self.keep_elder(is_on)
        if self.signed_in is not None:
            # Kept with the person too: messages then come the way that needs no app, and the next phone shows it as well.
            await self.hall.push.set_preferences(self.signed_in.resident_id, {"elder_mode": is_on})
        self.redirect(local_path(self.text("next", "/")), status=303)


routes = [
    (r"/", Home),
    (r"/search", Search),
    (r"/items", Items),
    (r"/items/(\w+)", Item),
    (r"/divisions", Divisions),
    (r"/halls", Halls),
    (r"/elder", Elder),
]
