"""Who hears of which event."""

from app.cases.service import Cases
from app.catalogue import changes as catalogue_changes
from app.catalogue.live import LiveCatalogue
from app.checks.reports import BillReports
from app.exchange.hook_deliveries import HookDeliveries
from app.feedback.evaluations import Evaluations
from app.feedback.model import EVENTS as FEEDBACK_EVENTS
from app.identity.service import Identity
from app.kernel.events import Event
from app.licences import service as licences
from app.reminders.service import Reminders
from app.storage.mongo import Database
from app.storage.relay import Subscriber
from app.supervision import cards as supervision_cards
from app.supervision.cards import Cards
from commands.reminding import reminding
from payments.service import Payments
from push.model import EVENTS as PUSH_EVENTS
from push.news import News
from push.service import Push


def subscribers_of(
    database: Database,
    push: Push,
    cases: Cases,
    payments: Payments,
    bill_reports: BillReports,
    wallet: licences.Licences,
    reminders: Reminders,
    news: News,
    identity: Identity,
    catalogue: LiveCatalogue,
    cards: Cards,
    feedback: Evaluations,
    to_hooks: HookDeliveries,
) -> dict[str, list[Subscriber]]:
    """Return who hears of what. A subscriber's name is kept with the events it has handled: never rename one."""

    async def move_cases(event: Event) -> None:
        for payable in event.data["payables"]:
            if payable["kind"] == "case":
                await cases.fee_paid(payable["id"], event.subject_id)

    async def tell_cases_of_refund(event: Event) -> None:
        for part in event.data.get("refund_parts", ()):
            if part["kind"] == "case":
                await cases.fee_refunded(part["id"], event.subject_id, event.data["refund_id"], part["amount_fen"])

    async def close_orders(event: Event) -> None:
        await payments.close_payable("case", event.subject_id)

    async def finish_join(event: Event) -> None:
        for move in identity.after_join:
            await move(event.data["from"], event.data["into"])

    subscribers: dict[str, list[Subscriber]] = {name: [("tell", push.tell)] for name in push.event_names}
    for name, subscriber in (
        ("order.paid", ("cases", move_cases)),
        ("order.paid", ("departments", bill_reports.report_paid)),
        ("refund.succeeded", ("departments", bill_reports.report_refunded)),
        ("refund.succeeded", ("cases", tell_cases_of_refund)),
        ("bill.payment_refused", ("refunds", payments.refunds.refund_refused_bill)),
        ("case.payment_refused", ("refunds", payments.refunds.refund_refused_bill)),
        ("case.withdrawn", ("payments", close_orders)),
        ("identity.joined", ("join", finish_join)),
        ("identity.join_settled", ("join", finish_join)),
        *((name, ("news", news.note_item)) for name in catalogue_changes.EVENTS),
        *reminding(database, cases, wallet, reminders, identity, catalogue),
        *((name, ("supervision", cards.note)) for name in supervision_cards.EVENTS),
        *((name, ("feedback", feedback.note)) for name in FEEDBACK_EVENTS),
        *((name, ("hooks", to_hooks.note)) for name in PUSH_EVENTS["case"]),
    ):
        # Before `tell`: whoever is told finds the thing done.
        subscribers.setdefault(name, []).insert(0, subscriber)
    return subscribers
