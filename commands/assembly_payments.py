"""What payments are made of: providers, and the reconciling of their bills."""

from collections.abc import Mapping

from app.identity.service import Identity
from app.platforms.alipay import AlipayGateway
from app.platforms.http import HttpClient
from app.storage.mongo import Database
from config.settings import Settings
from payments.providers.alipay import Alipay
from payments.providers.bill_downloads import AlipayBills, WeChatPayBills
from payments.providers.wechatpay import WeChatPay
from payments.reconcile.service import Reconcile
from payments.service import Payments
from payments.sources import PayableSource


def make_payments(
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


def make_reconcile(
    settings: Settings,
    database: Database,
    http: HttpClient,
    alipay: AlipayGateway,
    payments: Payments,
    sources: Mapping[str, PayableSource],
    own_agency: str,
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
        own_agency=own_agency,
    )
