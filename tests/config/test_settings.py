"""Settings: named, all wrong ones at once, files too, secrets never shown."""

import pytest

from config.settings import SettingsError, read_settings


def read(**given):
    return read_settings({f"HALL_{name.upper()}": value for name, value in given.items()}, env_file=None)


def test_dev_needs_nothing():
    settings = read()
    assert (settings.env, settings.port, settings.public_url) == ("dev", 8888, "http://127.0.0.1:8888")


def test_every_wrong_value_is_named():
    with pytest.raises(SettingsError) as caught:
        read(port="no", field_cipher="rot13", env="prod")
    assert all(name in str(caught.value) for name in ("PORT", "FIELD_CIPHER", "ENV"))


def test_production_names_everything_it_lacks():
    with pytest.raises(SettingsError) as caught:
        read(env="production")
    for name in ("HALL_SECRET_KEYS", "HALL_MONGODB_URI", "HALL_WECHATPAY_MERCHANT_KEY", "HALL_ALIPAY_APP_PRIVATE_KEY"):
        assert f"{name} is missing" in str(caught.value)


def test_a_secret_can_come_from_a_file_and_loses_its_final_newline(tmp_path):
    (tmp_path / "secret").write_text("s3cret\n")
    assert read(wechat_app_secret_file=str(tmp_path / "secret")).wechat_app_secret == "s3cret"


def test_secrets_are_not_in_the_repr():
    assert "s3cret" not in repr(read(wechat_app_secret="s3cret", demo_password="s3cret"))


def test_production_has_no_stand_ins_and_no_demo_password():
    with pytest.raises(SettingsError, match="DEMO_PASSWORD"):
        read(env="production", demo_password="x")
    assert read(env="test").sandbox_url


def test_urls_lose_their_final_slash_and_nonsense_is_refused():
    assert read(wechat_api_url="http://127.0.0.1:9/").wechat_api_url == "http://127.0.0.1:9"
    with pytest.raises(SettingsError, match="HALL_SMS_URL"):
        read(sms_url="ftp://x")


def test_a_file_that_cannot_be_read_is_named():
    with pytest.raises(SettingsError, match="HALL_WECHAT_APP_SECRET_FILE"):
        read(wechat_app_secret_file="/no/such/file")


def test_the_scanner_has_an_address_of_its_own_kind():
    assert read(clamav_url="tcp://clamd:3310").clamav_url == "tcp://clamd:3310"
    for wrong in ("http://clamd:3310", "clamd:3310", "tcp://"):
        with pytest.raises(SettingsError, match="HALL_CLAMAV_URL"):
            read(clamav_url=wrong)


def test_e_mail_is_off_or_has_a_relay_and_a_sender():
    assert read().smtp_url == ""
    good = {"smtp_url": "smtps://hall:p%40ss@mail.example:465", "mail_from": "韶关办事 <noreply@hall.example>"}
    assert read(**good).mail_from.endswith("<noreply@hall.example>") and "p%40ss" not in repr(read(**good))
    for name, wrong in (
        ("smtp_url", "mail.example:25"), ("smtp_url", "http://mail.example"), ("smtp_url", "smtp://"), ("smtp_url", "smtp://mail.example:port"),
        ("mail_from", ""), ("mail_from", "nobody"), ("smtp_ca", "no certificate"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=f"HALL_{name.upper()}"):
            read(**{**good, name: wrong})


def test_the_official_account_is_off_or_has_its_secrets():
    assert read().wechat_official_app_id == ""
    with pytest.raises(SettingsError, match="HALL_WECHAT_OFFICIAL_APP_SECRET"):
        read(wechat_official_app_id="wx1")
    with pytest.raises(SettingsError, match="HALL_WECHAT_OFFICIAL_MESSAGE_AES_KEY"):
        read(wechat_official_app_id="wx1", wechat_official_app_secret="s", wechat_official_message_aes_key="short")
    with pytest.raises(SettingsError, match="WECHAT_CUSTOMER_SERVICE"):
        read(wechat_customer_service="robot")
