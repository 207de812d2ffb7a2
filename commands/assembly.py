"""The only place where parts are put together: connections are made here and passed in; nothing connects on import."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import orjson
import structlog
from redis.asyncio import Redis

from app.cases.intake import Intake
from app.cases.marks import Marks
from app.cases.opinions import Opinions
from app.cases.papers import Papers
from app.cases.payables import CasePayables
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
from app.catalogue.assistant import answer_question, asks_for_person
from app.catalogue.live import LiveCatalogue
from app.checks.payables import BillPayables
from app.checks.reports import BillReports
from app.checks.service import Checks
from app.exchange.departments import Departments
from app.exchange.hook_deliveries import HookDeliveries
from app.exchange.hooks import Hooks
from app.feedback.complaints import Complaints
from app.feedback.evaluations import Evaluations
from app.feedback.model import read_rules
from app.feedback.staff_ratings import StaffRatings
from app.feedback.work_orders import WorkOrders
from app.identity.emails import Emails
from app.identity.realname import RealName
from app.identity.service import Identity
from app.identity.sms_codes import SmsCodes, SmsLimits
from app.identity.staff import StaffAccounts
from app.identity.window import Window
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import run_ahead, utc_now
from app.kernel.crypto import KeyRing
from app.licences import service as licences
from app.platforms.alipay import AlipayGateway
from app.platforms.clamav import ClamAV
from app.platforms.http import HttpClient
from app.platforms.http2 import Http2Client
from app.platforms.wechat import WeChat
from app.reminders.service import Reminders
from app.storage.files import Files
from app.storage.limits import Limit
from app.storage.mongo import Database
from app.storage.redis import connect, publish
from app.storage.relay import Relay
from app.supervision.cards import Cards
from app.supervision.desk import Desk
from app.supervision.notices import Notices, Recounts
from commands.assembly_payments import make_payments, make_reconcile
from commands.assembly_push import make_campaigns, make_push
from commands.subscribers import subscribers_of
from config.settings import ROOT, Settings, networks
from payments.reconcile.service import Reconcile
from payments.service import Payments
from payments.sources import PayableSource
from push.campaigns.service import Campaigns
from push.channels.jpush_receipts import JPushReceipts
from push.channels.sms import SmsGateway
from push.customer_messages import CustomerMessages
from push.model import EVENTS as PUSH_EVENTS
from push.news import News
from push.preview import Preview
from push.service import Push
from push.subscriptions import Subscriptions

log = structlog.get_logger(__name__)

_HALL_AGENCY = "sg-zsj"  # runs the hall and holds its merchant numbers (config/catalogue/agencies.json)


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
    push = make_push(settings, database, redis, http, http2, identity, emails, wechat, alipay, sms)
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
    payments = make_payments(settings, database, http, identity, alipay, sources)
    await payments.prepare()
    rules = read_rules(ROOT / "config" / "feedback.json")
    work_orders = WorkOrders(database, keys, calendar, rules, _HALL_AGENCY, lambda: str(catalogue.agency(_HALL_AGENCY)["name"]))
    feedback = Evaluations(database, cases, keys, work_orders, rules, _HALL_AGENCY)
    identity.after_join += [cases.store.reassign_owner, payments.reassign, push.reassign, wallet.reassign, checks.reassign]
    campaigns = make_campaigns(settings, database, redis, push, identity, catalogue, subscriptions, _HALL_AGENCY)
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
        reconcile=make_reconcile(settings, database, http, alipay, payments, sources, _HALL_AGENCY),
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
            subscribers_of(
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
