"""The only place where parts are put together: connections are made here and passed in; nothing connects on import."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
import structlog
from pymongo import IndexModel
from redis.asyncio import Redis

from app.cases import marks as cases_marks
from app.cases import opinions as cases_opinions
from app.cases import store as cases_store
from app.cases.applicants import Applicants
from app.cases.intake import Intake
from app.cases.marks import Marks
from app.cases.opinions import Opinions
from app.cases.papers import INDEXES as PAPERS_INDEXES
from app.cases.papers import Papers
from app.cases.payables import CasePayables
from app.cases.pieces import INDEXES as PIECES_INDEXES
from app.cases.pieces import Pieces
from app.cases.queue import Queue
from app.cases.requests import Requests
from app.cases.reuse import Reuse
from app.cases.review import Review
from app.cases.search import Search
from app.cases.service import Cases
from app.cases.showing import Showing
from app.cases.store import CaseStore
from app.cases.sweeps import Sweeps
from app.cases.upkeep import Scanning, Upkeep
from app.catalogue import changes as catalogue_changes
from app.catalogue import publish as catalogue_publish
from app.catalogue.assistant import answer_question, asks_for_person
from app.catalogue.live import LiveCatalogue
from app.catalogue.load import Catalogue
from app.catalogue.load import load_catalogue as read_catalogue
from app.checks import reports as checks_reports
from app.checks import store as checks_store
from app.checks.payables import BillPayables
from app.checks.reports import BillReports
from app.checks.service import Checks
from app.exchange import hook_deliveries, hooks
from app.exchange.departments import Departments
from app.exchange.hook_deliveries import HookDeliveries
from app.exchange.hooks import Hooks
from app.feedback import evaluations as feedback_evaluations
from app.feedback import people as feedback_people
from app.feedback import statistics as feedback_statistics
from app.feedback import work_orders as feedback_work_orders
from app.feedback.complaints import Complaints
from app.feedback.evaluations import Evaluations
from app.feedback.model import EVENTS as FEEDBACK_EVENTS
from app.feedback.model import read_rules
from app.feedback.staff_ratings import StaffRatings
from app.feedback.work_orders import WorkOrders
from app.identity import emails as identity_emails
from app.identity import store as identity_store
from app.identity.emails import Emails
from app.identity.realname import RealName
from app.identity.service import Identity
from app.identity.sms_codes import SmsCodes, SmsLimits
from app.identity.staff import StaffAccounts
from app.identity.window import Window
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import run_ahead, utc_now
from app.kernel.crypto import KeyRing
from app.kernel.events import Event
from app.licences import service as licences
from app.platforms.alipay import AlipayGateway
from app.platforms.clamav import ClamAV
from app.platforms.http import HttpClient
from app.platforms.http2 import Http2Client
from app.platforms.smtp import Smtp
from app.platforms.wechat import WeChat
from app.reminders import service as reminders_service
from app.reminders.service import Reminders
from app.storage import files as stored_files
from app.storage import idempotency, outbox
from app.storage.files import Files
from app.storage.limits import Limit
from app.storage.mongo import Database
from app.storage.redis import connect, publish
from app.storage.relay import Relay, Subscriber
from app.supervision import cards as supervision_cards
from app.supervision import measures as supervision_measures
from app.supervision.cards import Cards
from app.supervision.desk import Desk
from app.supervision.notices import Notices, Recounts
from commands.reminding import reminding
from config.settings import ROOT, Settings, networks
from payments import store as payments_store
from payments.providers.alipay import Alipay
from payments.providers.bill_downloads import AlipayBills, WeChatPayBills
from payments.providers.wechatpay import WeChatPay
from payments.reconcile import store as reconcile_store
from payments.reconcile.service import Reconcile
from payments.service import Payments
from payments.sources import PayableSource
from push import news as push_news
from push import customer_messages
from push import service as push_service
from push import subscriptions as push_subscriptions
from push.campaigns import model as campaigns_model
from push.campaigns import segments
from push.campaigns.service import Campaigns
from push.channels.alipay import AlipayMessage
from push.channels.apns import Apns, ApnsKey
from push.channels.email import Email
from push.channels.jpush import JPush
from push.channels.jpush_receipts import JPushReceipts
from push.channels.sms import Sms, SmsGateway
from push.channels.voice import Voice
from push.channels.wechat import WechatSubscribe
from push.channels.wechat_official import WechatOfficial
from push.customer_messages import CustomerMessages
from push.followers import Followers
from push.grants import Grants
from push.model import EVENTS as PUSH_EVENTS
from push.native_options import load_native_options
from push.pauses import Pauses
from push.news import News
from push.preview import Preview
from push.service import Push
from push.store import Store
from push.subscriptions import Subscriptions
from push.templates import FOLDER, MessageTemplates, load_templates

log = structlog.get_logger(__name__)

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

_HALL_AGENCY = "sg-zsj"  # runs the hall and holds its merchant numbers (config/catalogue/agencies.json)


def load_catalogue() -> Catalogue:
    """Read and judge config/catalogue. Raises CatalogueBroken with one line per mistake."""
    return read_catalogue(ROOT / "config" / "catalogue")


@dataclass
class Hall:
    """Everything a process needs, put together. Handlers reach it as `self.hall`."""

    settings: Settings
    database: Database
    redis: Redis
    http: HttpClient
    http2: Http2Client
    keys: KeyRing
    calendar: WorkingCalendar
    catalogue: LiveCatalogue
    identity: Identity
    emails: Emails
    staff: StaffAccounts
    cases: Cases
    requests: Requests
    review: Review
    queue: Queue
    search: Search
    marks: Marks
    opinions: Opinions
    intake: Intake
    sweeps: Sweeps
    pieces: Pieces
    reuse: Reuse
    showing: Showing
    upkeep: Upkeep
    licences: licences.Licences
    reminders: Reminders
    feedback: Evaluations
    staff_ratings: StaffRatings
    work_orders: WorkOrders
    complaints: Complaints
    checks: Checks
    bill_reports: BillReports
    payments: Payments
    reconcile: Reconcile
    hooks: Hooks
    hook_deliveries: HookDeliveries
    hook_pings: Limit
    customer_messages: CustomerMessages
    preview: Preview
    outside: HttpClient  # for addresses that others have named
    push: Push
    jpush_receipts: JPushReceipts
    subscriptions: Subscriptions
    campaigns: Campaigns
    news: News
    relay: Relay
    notices: Notices
    recounts: Recounts
    cards: Cards
    supervision: Desk
    # Called when the virtual clock has moved: what goes by the day looks at once and not at its next round. Never in production.
    when_clock_moves: list[Callable[[], None]] = field(default_factory=list)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def recompute_deadlines(self) -> None:
        """Compute estimated deadlines again; nothing changes until the notice of their year is loaded."""
        await self.cases.recompute_deadlines()

    def run_beside(self, work: Awaitable[None]) -> None:
        """Run something beside the requests until `close`."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop what runs beside, close every connection."""
        self.stopping.set()
        await self.push.stream.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        await self.http.close()
        await self.http2.close()
        await self.outside.close()
        await self.redis.aclose()
        await self.database.close()


async def assemble(settings: Settings) -> Hall:
    """Put the parts together for one process, inside its running loop."""
    database = Database(settings.mongodb_uri, settings.mongodb_database)
    redis = connect(settings.redis_url)
    http, http2 = HttpClient(), Http2Client()
    keys = KeyRing.from_text(settings.secret_keys, settings.field_cipher)
    calendar = WorkingCalendar.load(ROOT / "config" / "calendars")
    notices = Notices(database, calendar)
    await notices.refresh()
    catalogue = LiveCatalogue(database)
    await catalogue.load()
    wechat = WeChat(
        http,
        redis,
        base_url=settings.wechat_api_url,
        app_id=settings.wechat_app_id,
        app_secret=settings.wechat_app_secret,
    )
    alipay = AlipayGateway(
        http,
        gateway_url=settings.alipay_gateway_url,
        app_id=settings.alipay_app_id,
        app_private_key=settings.alipay_app_private_key,
        public_key=settings.alipay_public_key,
        aes_key=settings.alipay_aes_key,
        app_cert=settings.alipay_app_cert,
        root_cert=settings.alipay_root_cert,
        public_cert=settings.alipay_public_cert,
    )
    sms = SmsGateway(http, settings.sms_url)
    push_holder: list[Push] = []  # identity sends codes through push, push asks identity about people

    async def send_code(phone: str, code: str, purpose: str) -> None:
        await push_holder[0].send_code(phone, code, purpose)

    async def send_email_code(email: str, code: str) -> None:
        await push_holder[0].send_email_code(email, code)

    limits = SmsLimits(settings.sms_interval_s, settings.sms_per_hour, settings.sms_per_hour_per_address)
    identity = Identity(
        database,
        keys,
        wechat=wechat,
        alipay=alipay,
        sms_codes=SmsCodes(database, keys, limits, send_code),
        realname=RealName(http, settings.realname_url),
    )
    emails = Emails(
        database,
        keys,
        send_email_code if settings.smtp_url else None,
        interval_s=settings.sms_interval_s,
        per_hour=settings.sms_per_hour,
        per_hour_per_address=settings.sms_per_hour_per_address,
    )
    push = _push(settings, database, redis, http, http2, identity, emails, wechat, alipay, sms)
    push_holder.append(push)
    subscriptions = Subscriptions(database, push.store, catalogue)
    news = News(database, subscriptions, catalogue)
    staff = StaffAccounts(database, keys)
    wallet = licences.Licences(database, lambda code: catalogue.snapshot.licences[code])
    reminders = Reminders(database, calendar)
    files = Files(database, keys)
    scan = Scanning(ClamAV(settings.clamav_url) if settings.clamav_url else None)
    if settings.is_production and not settings.clamav_url:
        log.warning("uploads.not_scanned", mend="set HALL_CLAMAV_URL")
    if settings.is_production and not settings.gateway_key:
        log.warning("gateway_reports.refused", mend="set HALL_GATEWAY_KEY")
    store = CaseStore(database, keys)
    cases = Cases(
        database,
        store,
        papers=Papers(database, keys, catalogue.division, settings.public_url),
        catalogue=catalogue,
        people=identity,
        licences=wallet,
        files=files,
        scan=scan,
        calendar=calendar,
    )
    pieces = Pieces(database, keys, cases.holdings, utc_now)
    departments = Departments(http, settings.departments_url)
    checks = Checks(
        database, redis, keys, catalogue=catalogue, people=identity, departments=departments, progress=cases.progress,
        note_day=reminders.put,
    )
    bill_reports = BillReports(database, departments)
    sources: dict[str, PayableSource] = {"case": CasePayables(cases), "bill": BillPayables(database, departments)}
    payments = _payments(settings, database, http, identity, alipay, sources)
    await payments.prepare()
    rules = read_rules(ROOT / "config" / "feedback.json")
    work_orders = WorkOrders(database, keys, calendar, rules, _HALL_AGENCY, lambda: str(catalogue.agency(_HALL_AGENCY)["name"]))
    feedback = Evaluations(database, cases, keys, work_orders, rules, _HALL_AGENCY)
    identity.after_join += [cases.store.reassign_owner, payments.reassign, push.reassign, wallet.reassign, checks.reassign]
    campaigns = _campaigns(settings, database, redis, push, identity, catalogue, subscriptions)
    # Campaigns last: they look again at what the one who stays is part of by now.
    identity.after_join += [feedback.reassign, work_orders.reassign, subscriptions.reassign, reminders.reassign, emails.reassign]
    identity.after_join += [campaigns.reassign]
    cards = Cards(database, calendar)
    opened = networks(settings.hook_networks)
    outside = HttpClient(stays_outside=settings.is_production, opened=opened)
    agency_hooks = Hooks(database, keys, utc_now, is_production=settings.is_production, events=PUSH_EVENTS["case"], opened=opened)
    to_hooks = HookDeliveries(database, agency_hooks, outside, store.agencies_of, utc_now)
    hall = Hall(
        settings=settings,
        database=database,
        redis=redis,
        http=http,
        http2=http2,
        keys=keys,
        calendar=calendar,
        catalogue=catalogue,
        identity=identity,
        emails=emails,
        staff=staff,
        cases=cases,
        requests=Requests(cases, wallet),
        review=Review(database, cases, staff.is_of_agency),
        queue=Queue(database, cases.store, lambda: cases.calendar),
        search=Search(database, cases.store, keys, Limit(redis, "staff_search", most=60, per_s=600)),
        marks=Marks(database, catalogue, keys),
        intake=Intake(database, cases, Window(database, keys), identity, _HALL_AGENCY),
        opinions=Opinions(database, orjson.loads((ROOT / "config" / "opinions.json").read_bytes())),
        sweeps=Sweeps(cases),
        pieces=pieces,
        reuse=Reuse(store, catalogue, cases.holdings, utc_now),
        showing=Showing(database, cases),
        upkeep=Upkeep(database, files, pieces, store, scan),
        licences=wallet,
        reminders=reminders,
        feedback=feedback,
        staff_ratings=StaffRatings(database, keys, rules, _HALL_AGENCY),
        work_orders=work_orders,
        complaints=Complaints(database, cases, work_orders, rules, _HALL_AGENCY),
        checks=checks,
        bill_reports=bill_reports,
        payments=payments,
        reconcile=_reconcile(settings, database, http, alipay, payments, sources),
        hooks=agency_hooks,
        hook_deliveries=to_hooks,
        hook_pings=Limit(redis, "hook_pings", most=6, per_s=60),
        customer_messages=CustomerMessages(
            database,
            keys,
            wechat,
            utc_now,
            answer=lambda text: answer_question(catalogue.snapshot, text, None),
            wants_person=asks_for_person,
            public_url=settings.public_url,
            mode=settings.wechat_customer_service,
        ),
        preview=Preview(push.templates, settings.public_url),
        outside=outside,
        push=push,
        jpush_receipts=JPushReceipts(
            http,
            database,
            push.reports,
            utc_now,
            base_url=settings.jpush_report_url,
            app_key=settings.jpush_app_key,
            master_secret=settings.jpush_master_secret,
        ),
        subscriptions=subscriptions,
        campaigns=campaigns,
        news=news,
        relay=Relay(
            database,
            _subscribers(
                database, push, cases, payments, bill_reports, wallet, reminders, news, identity, catalogue, cards, feedback, to_hooks
            ),
            urgent=push.urgent_names,
        ),
        notices=notices,
        recounts=Recounts(database, notices, cases),
        cards=cards,
        supervision=Desk(database, _HALL_AGENCY),
    )
    database.on_commit = _waker(hall)
    catalogue.on_notice = lambda notice: hall.run_beside(push.stream.broadcast("notice.published", notice))
    hall.run_beside(catalogue.run(hall.stopping, redis))
    hall.run_beside(notices.run(hall.stopping))
    if not settings.is_production:
        await _follow_virtual_clock(hall)
    return hall


async def _follow_virtual_clock(hall: Hall) -> None:
    from app.storage import virtual_clock  # dev and test only: production never imports it

    run_ahead(await virtual_clock.stored(hall.database))

    def moved() -> None:
        for look in hall.when_clock_moves:
            look()

    hall.run_beside(virtual_clock.follow(hall.database, hall.stopping, moved))


def _payments(
    settings: Settings,
    database: Database,
    http: HttpClient,
    identity: Identity,
    alipay: AlipayGateway,
    sources: Mapping[str, PayableSource],
) -> Payments:
    wechatpay = WeChatPay(
        http,
        base_url=settings.wechatpay_url,
        standby_url=settings.wechatpay_standby_url,
        app_id=settings.wechat_app_id,
        open_app_id=settings.wechat_open_app_id,
        mch_id=settings.wechatpay_mch_id,
        api_v3_key=settings.wechatpay_api_v3_key,
        merchant_serial=settings.wechatpay_merchant_serial,
        merchant_key=settings.wechatpay_merchant_key,
        merchant_cert=settings.wechatpay_merchant_cert,
        public_key_id=settings.wechatpay_public_key_id,
        public_key=settings.wechatpay_public_key,
    )
    return Payments(
        database,
        providers=[wechatpay, Alipay(alipay, seller_id=settings.alipay_seller_id)],
        sources=sources,
        payer_of=identity.channel_identity,
        public_url=settings.public_url,
        order_minutes=settings.order_minutes,
        refund_approval_fen=settings.refund_approval_fen,
    )


def _reconcile(
    settings: Settings,
    database: Database,
    http: HttpClient,
    alipay: AlipayGateway,
    payments: Payments,
    sources: Mapping[str, PayableSource],
) -> Reconcile:
    wechatpay = payments.providers["wechatpay"]
    assert isinstance(wechatpay, WeChatPay)
    return Reconcile(
        database,
        providers=payments.providers,
        sources=sources,
        bills=[WeChatPayBills(http, wechatpay), AlipayBills(http, alipay, settings.alipay_bill_type)],
        folder=settings.data_dir / "reconcile",
        public_url=settings.public_url,
        own_agency=_HALL_AGENCY,
    )


def _push(
    settings: Settings,
    database: Database,
    redis: Redis,
    http: HttpClient,
    http2: Http2Client,
    identity: Identity,
    emails: Emails,
    wechat: WeChat,
    alipay: AlipayGateway,
    sms: SmsGateway,
) -> Push:
    templates = load_templates()
    email = None
    if settings.smtp_url:
        email = Email(
            Smtp(settings.smtp_url, settings.smtp_ca),
            emails,
            templates.specs,
            sender=settings.mail_from,
            public_url=settings.public_url,
            stop_link=emails.stop_path,
        )
    store, grants, pauses = Store(database), Grants(database, templates.wechat), Pauses(database, utc_now)
    official, followers = _official_account(settings, database, redis, http, identity, pauses, templates)
    channels = [
        WechatSubscribe(wechat, grants, identity, pauses, utc_now),
        *([official] if official else []),
        AlipayMessage(alipay, templates.alipay, identity),
        Apns(
            http2,
            store,
            ApnsKey.from_pem(settings.apns_key, settings.apns_key_id, settings.apns_team_id) if settings.apns_url else None,
            utc_now,
            base_url=settings.apns_url,
            topic=settings.apns_topic,
        ),
        JPush(
            http,
            store,
            load_native_options(FOLDER),
            utc_now,
            base_url=settings.jpush_url,
            app_key=settings.jpush_app_key,
            master_secret=settings.jpush_master_secret,
            production=settings.is_production,
            asks_receipts=bool(settings.jpush_report_url),
        ),
        *([email] if email else []),
        Sms(sms, identity),
        Voice(http, store, identity, utc_now, base_url=settings.voice_url),
    ]
    return Push(
        database, redis, templates, people=identity, store=store, grants=grants, channels=channels, sms=sms, email=email,
        followers=followers,
    )  # fmt: skip


def _official_account(
    settings: Settings,
    database: Database,
    redis: Redis,
    http: HttpClient,
    identity: Identity,
    pauses: Pauses,
    templates: MessageTemplates,
) -> tuple[WechatOfficial | None, Followers]:
    """Return the channel of the city's official account, None where it has none, and who follows it."""
    if not settings.wechat_official_app_id:
        return None, Followers(database, None, utc_now)
    account = WeChat(
        http,
        redis,
        base_url=settings.wechat_api_url,
        app_id=settings.wechat_official_app_id,
        app_secret=settings.wechat_official_app_secret,
    )
    followers = Followers(database, account, utc_now)
    channel = WechatOfficial(
        account, followers, templates.official, identity, pauses, utc_now,
        mini_program=settings.wechat_app_id, public_url=settings.public_url,
    )  # fmt: skip
    return channel, followers


def _campaigns(
    settings: Settings,
    database: Database,
    redis: Redis,
    push: Push,
    identity: Identity,
    catalogue: LiveCatalogue,
    subscriptions: Subscriptions,
) -> Campaigns:
    applicants = Applicants(database)
    people: dict[str, segments.People] = {
        segments.ALL: segments.Everybody(identity),
        segments.DIVISION: segments.Within(applicants, lambda: catalogue.snapshot.divisions),
        segments.APPLICANTS: applicants,
        segments.SUBSCRIBERS: segments.Following(subscriptions),
    }
    return Campaigns(
        database,
        redis,
        push,
        catalogue=catalogue,
        people=people,
        phones=identity.resident_of_phone,
        operator=_HALL_AGENCY,
        approval_size=settings.campaign_approval_size,
    )


def _subscribers(
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


def _waker(hall: Hall) -> Callable[[], None]:
    """Return what to call after a commit: it tells the workers once per loop turn, however many commits there were."""
    waiting = False

    async def tell() -> None:
        nonlocal waiting
        waiting = False
        hall.relay.wake()
        await publish(hall.redis, "events", "")

    def wake() -> None:
        nonlocal waiting
        if not waiting:
            waiting = True
            hall.run_beside(tell())

    return wake
