"""The books: prove them, show them, pay out, correct, and take in what was paid before there was a ledger."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from app.identity.staff import StaffAccounts
from app.kernel.clock import utc_now
from app.kernel.crypto import KeyRing
from app.kernel.money import fen_from_yuan, yuan_text
from app.storage.mongo import Database
from commands.environment import load_catalogue, load_settings
from payments.ledger import by_hand, store
from payments.ledger.verify import Report, adopt, verify

T = TypeVar("T")
PROVIDERS = ("wechatpay", "alipay")


@click.group()
def command() -> None:
    """Prove the ledger; show its balances; book payouts and corrections."""


@command.command("verify")
@click.option("--noted", multiple=True, metavar="BLOCK:HASH", help="A block's hash as the log has it (ledger.sealed); may be repeated.")
def verify_command(noted: tuple[str, ...]) -> None:
    """Prove that every entry balances, every payment and refund is booked, and the chain is unbroken. Ends with 1 when not."""
    done = 0
    try:
        known = {int(block): value.lower() for block, _, value in (text.partition(":") for text in noted)}
    except ValueError as error:
        raise click.BadParameter("write it as BLOCK:HASH", param_hint="--noted") from error

    def show(count: int) -> None:
        nonlocal done
        done += count
        if sys.stderr.isatty():
            click.echo(f"\r{done:,} entries and orders", nl=False, err=True)

    report = _run(lambda database: verify(database, show, known))
    if sys.stderr.isatty():
        click.echo(err=True)
    _print(report)
    sys.exit(0 if report.is_clean else 1)


@command.command("balances")
@click.option("--agency", help="What this agency got and is owed, by provider, instead.")
def balances_command(agency: str | None) -> None:
    """Show the balance of every account, in yuan. They sum to zero."""
    if agency:
        _print_owed(agency, _run(lambda database: by_hand.owed_by_provider(database, _agency(agency))))
        return
    found = _run(store.balances)
    width = max((len(account) for account in found), default=10)
    for account in sorted(found):
        click.echo(f"{account:<{width}}  {_signed(found[account]):>18}")
    click.echo(f"{'sum':<{width}}  {_signed(sum(found.values())):>18}")


@command.command("adopt")
def adopt_command() -> None:
    """Book payments and refunds that are older than the ledger. Books nothing twice."""
    click.echo(f"{_run(adopt)} entries booked")


@command.command("payout")
@click.option("--agency", required=True, help="Id of the agency that got its money.")
@click.option("--provider", required=True, type=click.Choice(PROVIDERS), help="From what lies there.")
@click.option("--amount", required=True, help="In yuan.")
@click.option("--reference", required=True, help="Of the bank transfer; booked once, however often it is given.")
@click.option("--by", required=True, help="Staff account of who says so.")
def payout_command(agency: str, provider: str, amount: str, reference: str, by: str) -> None:
    """Book that an agency was paid out; at most what it is owed and what lies at the provider."""

    async def work(database: Database, staff: StaffAccounts) -> bool:
        await _require_staff(staff, by)
        return await by_hand.pay_out(
            database,
            agency_id=_agency(agency),
            provider=provider,
            amount_fen=_fen(amount, "--amount"),
            reference=reference,
            by=by,
            now=utc_now(),
        )

    _say(_book(work), f"payout {reference}")


@command.command("correct")
@click.option("--number", required=True, help="Of the paper that explains it; booked once, however often it is given.")
@click.option("--line", "lines", required=True, multiple=True, metavar="ACCOUNT=YUAN", help="Debit positive, credit negative; at least two.")
@click.option("--reason", required=True)
@click.option("--by", required=True, help="Staff account of who corrects.")
@click.option("--agreed-by", required=True, help="Account of the head who agrees; somebody else.")
@click.option("--provider", type=click.Choice(PROVIDERS), help="Whose money it is, for balances by provider.")
def correct_command(number: str, lines: tuple[str, ...], reason: str, by: str, agreed_by: str, provider: str | None) -> None:
    """Book a correction that two people stand for, as an entry of its own."""
    wanted = [(account, _fen(yuan, "--line", signed=True)) for account, _, yuan in (line.rpartition("=") for line in lines)]
    accounts = by_hand.correctable_accounts(PROVIDERS, [row["id"] for row in load_catalogue().agencies])

    async def work(database: Database, staff: StaffAccounts) -> bool:
        await _require_staff(staff, by)
        await _require_staff(staff, agreed_by, role="head")
        return await by_hand.correct(
            database,
            number=number,
            lines=wanted,
            reason=reason,
            by=by,
            agreed_by=agreed_by,
            accounts=accounts,
            now=utc_now(),
            provider=provider or "",
        )

    _say(_book(work), f"correction {number}")


async def _require_staff(staff: StaffAccounts, account: str, role: str = "") -> None:
    found = await staff.role_of(account)
    if not found or (role and found != role):
        raise click.ClickException(f"{account} is no staff account{' of a head' if role else ''}")


def _agency(agency_id: str) -> str:
    if agency_id not in {row["id"] for row in load_catalogue().agencies}:
        raise click.ClickException(f"no agency {agency_id} in the catalogue")
    return agency_id


def _fen(text: str, option: str, *, signed: bool = False) -> int:
    is_negative = signed and text.startswith("-")
    try:
        fen = fen_from_yuan(text.removeprefix("-") if is_negative else text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error
    return -fen if is_negative else fen


def _book(work: Callable[[Database, StaffAccounts], Awaitable[bool]]) -> bool:
    settings = load_settings()
    keys = KeyRing.from_text(settings.secret_keys, settings.field_cipher)
    try:
        return _run(lambda database: work(database, StaffAccounts(database, keys)))
    except by_hand.BookingRefused as refused:
        raise click.ClickException(f"not booked: {refused}") from refused
    except store.FactBookedDifferently as error:
        raise click.ClickException(f"not booked: {error} is booked already, with another content") from error


def _say(is_new: bool, what: str) -> None:
    click.echo(f"{what}: booked" if is_new else f"{what}: was booked before, nothing was added")


def _print_owed(agency: str, found: dict[str, dict[str, int]]) -> None:
    names = ("received", "returned", "paid_out", "corrected", "owed")
    click.echo(f"{agency:<14}" + "".join(f"{name:>16}" for name in names))
    total = dict.fromkeys(names, 0)
    for provider, sums in found.items():
        click.echo(f"{provider or '-':<14}" + "".join(f"{_signed(sums[name]):>16}" for name in names))
        total = {name: total[name] + sums[name] for name in names}
    click.echo(f"{'sum':<14}" + "".join(f"{_signed(total[name]):>16}" for name in names))


def _print(report: Report) -> None:
    for problem in report.problems:
        click.echo(f"WRONG  {problem}")
    click.echo(
        f"{report.entries} entries ({report.unsealed} not sealed yet), {report.blocks} blocks, {report.orders} paid orders; "
        f"head {report.head[:16]}"
    )
    click.echo("the ledger is in order" if report.is_clean else f"{len(report.problems)} problems: the ledger is NOT in order")


def _signed(fen: int) -> str:
    return f"-{yuan_text(-fen)}" if fen < 0 else yuan_text(fen)


def _run(work: Callable[[Database], Awaitable[T]]) -> T:
    settings = load_settings()

    async def run() -> T:
        database = Database(settings.mongodb_uri, settings.mongodb_database)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())
