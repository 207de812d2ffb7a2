"""What telling is made of: the channels that the settings name, the official account, campaigns."""

from redis.asyncio import Redis

from app.cases.applicants import Applicants
from app.catalogue.live import LiveCatalogue
from app.identity.emails import Emails
from app.identity.service import Identity
from app.kernel.clock import utc_now
from app.platforms.alipay import AlipayGateway
from app.platforms.http import HttpClient
from app.platforms.http2 import Http2Client
from app.platforms.smtp import Smtp
from app.platforms.wechat import WeChat
from app.storage.mongo import Database
from config.settings import Settings
from push.campaigns import segments
from push.campaigns.service import Campaigns
from push.channel import Channel
from push.channels.alipay import AlipayMessage
from push.channels.apns import Apns, ApnsKey
from push.channels.email import Email
from push.channels.jpush import JPush
from push.channels.sms import Sms, SmsGateway
from push.channels.voice import Voice
from push.channels.wechat import WechatSubscribe
from push.channels.wechat_official import WechatOfficial
from push.followers import Followers
from push.grants import Grants
from push.native_options import load_native_options
from push.pauses import Pauses
from push.service import Push
from push.store import Store
from push.subscriptions import Subscriptions
from push.templates import FOLDER, MessageTemplates, load_templates


def make_push(
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
    channels: list[Channel] = [
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


def make_campaigns(
    settings: Settings,
    database: Database,
    redis: Redis,
    push: Push,
    identity: Identity,
    catalogue: LiveCatalogue,
    subscriptions: Subscriptions,
    operator: str,
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
        operator=operator,
        approval_size=settings.campaign_approval_size,
    )
