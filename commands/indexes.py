"""Every collection's indexes, of all rooms together."""

from collections.abc import Mapping, Sequence

from pymongo import IndexModel

from app.cases import marks as cases_marks
from app.cases import opinions as cases_opinions
from app.cases import store as cases_store
from app.cases.papers import INDEXES as PAPERS_INDEXES
from app.cases.pieces import INDEXES as PIECES_INDEXES
from app.catalogue import publish as catalogue_publish
from app.checks import reports as checks_reports
from app.checks import store as checks_store
from app.exchange import hook_deliveries, hooks
from app.feedback import evaluations as feedback_evaluations
from app.feedback import people as feedback_people
from app.feedback import statistics as feedback_statistics
from app.feedback import work_orders as feedback_work_orders
from app.identity import emails as identity_emails
from app.identity import store as identity_store
from app.licences import service as licences
from app.reminders import service as reminders_service
from app.storage import files as stored_files
from app.storage import idempotency, outbox
from app.supervision import cards as supervision_cards
from app.supervision import measures as supervision_measures
from payments import store as payments_store
from payments.reconcile import store as reconcile_store
from push import customer_messages
from push import news as push_news
from push import service as push_service
from push import subscriptions as push_subscriptions
from push.campaigns import model as campaigns_model

INDEXES: Mapping[str, Sequence[IndexModel]] = {
    **outbox.INDEXES,
    **idempotency.INDEXES,
    **identity_store.INDEXES,
    **identity_emails.INDEXES,
    **catalogue_publish.INDEXES,
    **cases_store.INDEXES,
    **cases_marks.INDEXES,
    **cases_opinions.INDEXES,
    **PAPERS_INDEXES,
    **PIECES_INDEXES,
    **stored_files.INDEXES,
    **checks_store.INDEXES,
    **checks_reports.INDEXES,
    **licences.INDEXES,
    **reminders_service.INDEXES,
    **feedback_evaluations.INDEXES,
    **feedback_people.INDEXES,
    **feedback_statistics.INDEXES,
    **feedback_work_orders.INDEXES,
    **supervision_cards.INDEXES,
    **supervision_measures.INDEXES,
    **customer_messages.INDEXES,
    **hooks.INDEXES,
    **hook_deliveries.INDEXES,
    **payments_store.INDEXES,
    **reconcile_store.INDEXES,
    "orders": payments_store.INDEXES["orders"] + reconcile_store.INDEXES["orders"],  # both look at the same collection
    **push_service.INDEXES,
    **campaigns_model.INDEXES,
    **{name: [*push_service.INDEXES[name], *more] for name, more in campaigns_model.COUNTING_INDEXES.items()},
    **push_subscriptions.INDEXES,
    **push_news.INDEXES,
}
