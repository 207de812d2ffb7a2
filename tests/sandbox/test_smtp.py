"""The mail server spoken to by somebody else's client, the one of the standard library: TLS, sign-in, refusals, what it keeps."""

import asyncio
import shutil
import smtplib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sandbox import smtp as mail_server
from sandbox.base import Pace, Sandbox
from sandbox.credentials import FILE_NAME, load_or_make
from sandbox.store import Store
from sandbox.tls import host_certificate


class Server:
    def __init__(self, sandbox: Sandbox, port: int) -> None:
        self.sandbox, self.port = sandbox, port
        self.trust = ssl.create_default_context(cadata=host_certificate(sandbox.credentials.derived("smtp.tls"))[0])

    def client(self, *, tls: bool = True, login: bool = True) -> smtplib.SMTP:
        client = smtplib.SMTP("127.0.0.1", self.port, timeout=5)
        client.ehlo()
        if tls:
            client.starttls(context=self.trust)
        if login:
            client.login(self.sandbox.credentials.smtp_name, self.sandbox.credentials.smtp_password)
        return client

    async def talk(self, work: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(work)

    def kept(self) -> list[dict[str, Any]]:
        return self.sandbox.store.sent("email", None, None)


@pytest.fixture
async def server(sandbox_keys, tmp_path) -> AsyncIterator[Server]:
    shutil.copy2(sandbox_keys, tmp_path / FILE_NAME)
    store = Store(tmp_path)
    sandbox = Sandbox(load_or_make(tmp_path), store, "http://127.0.0.1:1", Pace(slow_s=0.2))
    listening = await mail_server.start(sandbox, "127.0.0.1", 0)
    yield Server(sandbox, listening.sockets[0].getsockname()[1])
    listening.close()
    store.close()


async def test_a_mail_is_taken_over_tls_and_kept_as_it_was(server: Server):
    def work() -> None:
        with server.client() as client:
            assert client.has_extn("size") and not client.has_extn("starttls"), "offered once"
            body = "Subject: =?utf-8?b?6aqM6K+B56CB?=\r\nFrom: a@hall.example\r\n\r\n.a line that begins with a dot\r\n..two\r\n482913\r\n"
            client.sendmail("a@hall.example", ["b@example.com", "c@example.com"], body)

    await server.talk(work)
    first, second = server.kept()
    assert (first["to"], second["to"], first["subject"], first["code"]) == ("b@example.com", "c@example.com", "验证码", "482913")
    assert ".a line that begins" in first["text"] and "..two" in first["text"], "dots are unstuffed"


async def test_nothing_goes_without_tls_and_sign_in(server: Server):
    def work() -> None:
        with server.client(tls=False, login=False) as client:
            assert client.docmd("AUTH", "PLAIN AGhhbGwAeA==")[0] == 538
            assert client.mail("a@hall.example")[0] == 530
        with server.client(login=False) as client:
            assert client.mail("a@hall.example")[0] == 530
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("hall", "wrong")
            client.login(server.sandbox.credentials.smtp_name, server.sandbox.credentials.smtp_password)
            assert client.rcpt("b@example.com")[0] == 503, "MAIL first"
            assert client.docmd("NONSENSE")[0] == 502

    await server.talk(work)
    assert server.kept() == []


@pytest.mark.parametrize(
    ("to", "code"), [("nobody@example.com", 550), ("full1@example.com", 552), ("grey.x@example.com", 451), ("no-at", 501), ("b@example.com", 250)]
)
async def test_an_address_has_the_fate_of_its_name(server: Server, to: str, code: int):
    def work() -> tuple[int, int]:
        with server.client() as client:
            client.mail("a@hall.example")
            return client.rcpt(to)[0], client.rcpt(to)[0]

    assert await server.talk(work) == (code, 250 if code == 451 else code), "a grey list lets the second one through"


async def test_too_much_and_a_policy_are_refused_at_the_end(server: Server):
    def work() -> None:
        with server.client() as client, pytest.raises(smtplib.SMTPDataError) as refused:
            client.sendmail("a@hall.example", "b@example.com", "Subject: x\r\n\r\n" + "x" * 70 + "\r\n" + ("y" * 1000 + "\r\n") * 1100)
        assert refused.value.smtp_code == 552
        with server.client() as client, pytest.raises(smtplib.SMTPDataError) as refused:
            client.sendmail("a@hall.example", "policy@example.com", "Subject: x\r\n\r\nx\r\n")
        assert refused.value.smtp_code == 554

    await server.talk(work)
    assert server.kept() == []


@pytest.mark.parametrize("raw", [b"", b"\r\n", b"\xff\xfe\x00\r\n", b"EHLO " + b"x" * 5000 + b"\r\n", b"STARTTLS\r\nnot tls at all\r\n", b"GET / HTTP/1.1\r\n\r\n"])
async def test_garbage_does_not_stop_it(server: Server, raw: bytes):
    def work() -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
            client.recv(100)
            client.sendall(raw)
            client.shutdown(socket.SHUT_WR)
            while client.recv(1000):
                pass
        with server.client() as client:
            assert client.noop()[0] == 250

    await server.talk(work)


@pytest.mark.parametrize("fault", ["down", "rate_limited", "garbage", "bad_signature"])
async def test_bad_luck_comes_before_anything_is_taken(server: Server, fault: str):
    server.sandbox.faults.set("smtp", fault, 1)
    with pytest.raises((smtplib.SMTPException, OSError)):
        await server.talk(server.client)
    await server.talk(lambda: server.client().quit())
