"""The SDK against the real service, over a real socket, with the links of sent emails."""

import asyncio
import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from peers import MailServer, text_of
from served_requests import mailed, mailed_token, send_through
from server_process import ServerProcess, run_tiles
from support import OTHER_PASSWORD, PASSWORD

from tiles_client import AsyncClient, Client, errors


@pytest.fixture(scope="module")
def peer() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, peer: MailServer) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("sdk"), **send_through(peer)) as process:
        yield process


def register(tiles: Client, peer: MailServer, email: str) -> None:
    """Register a person, who is then signed in."""
    tiles.register(name="Ada Lovelace", email=email)
    tiles.confirm_registration(token=mailed_token(peer, email, "registering"), password=PASSWORD)


def test_a_person_lives_through_the_synchronous_client(server: ServerProcess, peer: MailServer) -> None:
    with Client(base_url=server.url) as tiles:
        tiles.register(name="Ada Lovelace", email="ada@example.org")
        token = mailed_token(peer, "ada@example.org", "registering")
        registered = tiles.confirm_registration(token=token, password=PASSWORD)
        assert (registered.account.name, registered.account.email) == ("Ada Lovelace", "ada@example.org")
        assert tiles.account() == registered.account
        assert [session.current for session in tiles.sessions()] == [True]

        with Client(base_url=server.url) as other:
            other.sign_in(email="ADA@example.org", password=PASSWORD)
            (mine,) = [session for session in other.sessions() if session.current]
            tiles.end_session(id=mine.id)
            with pytest.raises(errors.Unauthenticated):
                other.account()
            assert other.session_token is None

        tiles.change_password(current_password=PASSWORD, new_password=OTHER_PASSWORD)
        resumed = Client(base_url=server.url, session_token=tiles.session_token)
        with resumed:
            assert resumed.account().email == "ada@example.org"
        tiles.request_password_reset(email="ada@example.org")
        token = mailed_token(peer, "ada@example.org", "Reset")
        tiles.confirm_password_reset(token=token, password=PASSWORD)
        with pytest.raises(errors.Unauthenticated):
            tiles.account()
        tiles.sign_in(email="ada@example.org", password=PASSWORD)
        tiles.sign_out()
        assert tiles.session_token is None


def test_a_person_lives_through_the_asynchronous_client(server: ServerProcess, peer: MailServer) -> None:
    async def live() -> None:
        async with AsyncClient(base_url=server.url) as tiles:
            await tiles.register(name="Grace Hopper", email="grace@example.org")
            token = await asyncio.to_thread(mailed_token, peer, "grace@example.org", "registering")
            await tiles.confirm_registration(token=token, password=PASSWORD)
            assert (await tiles.account()).name == "Grace Hopper"
            await tiles.sign_in(email="grace@example.org", password=PASSWORD)
            assert len(await tiles.sessions()) == 2
            await tiles.change_password(current_password=PASSWORD, new_password=OTHER_PASSWORD)
            await tiles.request_password_reset(email="grace@example.org")
            token = await asyncio.to_thread(mailed_token, peer, "grace@example.org", "Reset")
            await tiles.confirm_password_reset(token=token, password=PASSWORD)
            await tiles.sign_in(email="grace@example.org", password=PASSWORD)
            await tiles.end_all_sessions()
            assert tiles.session_token is None

    asyncio.run(live())


def test_only_the_passed_fields_of_a_real_account_change(server: ServerProcess, peer: MailServer) -> None:
    with Client(base_url=server.url) as tiles:
        register(tiles, peer, "emmy@example.org")
        before = tiles.account()
        assert tiles.change_account() == before
        assert tiles.change_account(name="Emmy Noether").name == "Emmy Noether"
        changed = tiles.change_account(email_updates=not before.email_updates)
        assert (changed.name, changed.email_updates) == ("Emmy Noether", not before.email_updates)
        assert tiles.change_account(name=None).name is None
        assert tiles.account().email_updates is not before.email_updates
        with pytest.raises(errors.InvalidRequest) as refused:
            tiles.change_account(accepted_policy="never published")
        assert [entry.pointer for entry in refused.value.errors] == ["/accepted_policy"]


def test_a_policy_is_read_and_accepted(server: ServerProcess, peer: MailServer, tmp_path: Path) -> None:
    text = "We store a name and an email address.\n"
    path = tmp_path / "policy.txt"
    path.write_text(text)
    with Client(base_url=server.url) as tiles:
        with pytest.raises(errors.NotFound):
            tiles.policy()
        today = datetime.now(UTC).date()
        options = ["--version", "2026-01", "--effective", str(today), "--yes", str(path)]
        published = run_tiles(server.instance_path, "policy", "publish", *options)
        assert published.returncode == 0, published.stderr
        policy = tiles.policy()
        assert (policy.version, policy.effective_on) == ("2026-01", today)
        assert (policy.sha256, policy.url) == (hashlib.sha256(text.encode()).hexdigest(), f"{server.url}/privacy")
        register(tiles, peer, "maria@example.org")
        assert (tiles.account().policy.accepted, tiles.account().policy.current) == (None, "2026-01")
        assert tiles.change_account(accepted_policy=policy.version).policy.accepted == "2026-01"


def test_the_address_is_changed_and_taken_back(server: ServerProcess, peer: MailServer) -> None:
    with Client(base_url=server.url) as tiles, Client(base_url=server.url) as mailbox:
        register(tiles, peer, "sofia@example.org")
        with pytest.raises(errors.WrongPassword):
            tiles.request_email_change(email="new@example.org", password=OTHER_PASSWORD)
        tiles.request_email_change(email="new@example.org", password=PASSWORD)
        token = mailed_token(peer, "new@example.org", "Confirm your new")
        mailbox.confirm_email_change(token=token)
        assert tiles.account().email == "new@example.org"
        with pytest.raises(errors.InvalidToken):
            mailbox.confirm_email_change(token=token)
        mailbox.undo_email_change(token=mailed_token(peer, "sofia@example.org", "was changed"))
        with pytest.raises(errors.Unauthenticated):
            tiles.account()
        assert tiles.session_token is None
        token = mailed_token(peer, "sofia@example.org", "Reset")
        mailbox.confirm_password_reset(token=token, password=OTHER_PASSWORD)
        assert tiles.sign_in(email="sofia@example.org", password=OTHER_PASSWORD).account.email == "sofia@example.org"


def test_an_account_is_exported_closed_and_opened_again(server: ServerProcess, peer: MailServer) -> None:
    with Client(base_url=server.url) as tiles:
        register(tiles, peer, "lise@example.org")
        exported = tiles.export_account()
        assert "lise@example.org" in str(exported)
        assert PASSWORD not in str(exported)
        with pytest.raises(errors.WrongPassword):
            tiles.close_account(password=OTHER_PASSWORD)
        assert tiles.session_token
        closed = tiles.close_account(password=PASSWORD)
        assert closed.erase_after == closed.closed_at + timedelta(days=365)
        assert tiles.session_token is None
        with pytest.raises(errors.WrongCredentials):
            tiles.sign_in(email="lise@example.org", password=PASSWORD)
        token = mailed_token(peer, "lise@example.org", "is closed")
        tiles.cancel_erasure(token=token)
        with pytest.raises(errors.InvalidToken):
            tiles.cancel_erasure(token=token)
        tiles.sign_in(email="lise@example.org", password=PASSWORD)
        closed = tiles.close_account(password=PASSWORD, erase=True)
        assert closed.erase_after == closed.closed_at + timedelta(days=14)


def test_an_erasure_is_requested_confirmed_and_proven(tmp_path: Path, peer: MailServer) -> None:
    async def erase(url: str) -> None:
        async with AsyncClient(base_url=url) as tiles:
            await tiles.request_erasure(email="rosalind@example.org")
            token = await asyncio.to_thread(mailed_token, peer, "rosalind@example.org", "Erase your")
            closed = await tiles.confirm_erasure(token=token)
            assert closed.erase_after == closed.closed_at
            with pytest.raises(errors.InvalidToken):
                await tiles.confirm_erasure(token=token)
            mail = await asyncio.to_thread(mailed, peer, "rosalind@example.org", "have been erased")
            line = re.search(r"receipt, signed by the service:\s+(\S+)", text_of(mail))
            assert line
            receipt = await tiles.verify_erasure_receipt(receipt=line.group(1))
            assert receipt.requested_at == closed.closed_at.replace(microsecond=0)
            assert receipt.erased_at >= receipt.requested_at
            assert {entry.store: entry.rows for entry in receipt.removed}["accounts"] == 1
            assert all(entry.basis for entry in receipt.kept)
            with pytest.raises(errors.InvalidToken):
                await tiles.verify_erasure_receipt(receipt="x" + line.group(1))

    with (
        ServerProcess(tmp_path, erasure_grace_days=0, **send_through(peer)) as prompt,
        Client(base_url=prompt.url) as tiles,
    ):
        register(tiles, peer, "rosalind@example.org")
        asyncio.run(erase(prompt.url))
        with pytest.raises(errors.Unauthenticated):
            tiles.account()


def test_feedback_with_a_key_is_stored_once_with_and_without_a_session(server: ServerProcess, peer: MailServer) -> None:
    with Client(base_url=server.url) as tiles:
        first = tiles.send_feedback(message="More tiles, please.", key="k-1")
        assert tiles.send_feedback(message="More tiles, please.", key="k-1") == first
        assert tiles.send_feedback(message="More tiles, please.") != tiles.send_feedback(message="More tiles, please.")
        assert tiles.send_feedback(message="Fewer tiles, please.", key="k-1") != first
        register(tiles, peer, "dorothy@example.org")
        mine = tiles.send_feedback(message="Round tiles, please.", key="k-1")
        with pytest.raises(errors.InvalidRequest):
            tiles.send_feedback(message="Oval tiles, please.", key="k-1")
        assert tiles.send_feedback(message="Round tiles, please.", key="k-1") == mine
        assert "Round tiles, please." in str(tiles.export_account())
        with Client(base_url=server.url, session_token=tiles.session_token) as other:
            other.end_all_sessions()
        with pytest.raises(errors.Unauthenticated):
            tiles.send_feedback(message="Square tiles, please.", key="k-2")
        tiles.send_feedback(message="Square tiles, please.", key="k-2")
    listed = run_tiles(server.instance_path, "feedback", "list", "--json").stdout
    assert [listed.count(f"{shape} tiles") for shape in ("Round", "Square", "Fewer", "Oval")] == [1, 1, 1, 0]


def test_threads_and_tasks_share_a_client_over_real_connections(server: ServerProcess, peer: MailServer) -> None:
    async def ask_in_tasks(token: str | None) -> list[str]:
        async with AsyncClient(base_url=server.url, session_token=token) as tiles:
            return [account.email for account in await asyncio.gather(*(tiles.account() for _ in range(30)))]

    with Client(base_url=server.url) as tiles, ThreadPoolExecutor(10) as pool:
        register(tiles, peer, "hedy@example.org")
        emails = list(pool.map(lambda _: tiles.account().email, range(30)))
        assert emails + asyncio.run(ask_in_tasks(tiles.session_token)) == ["hedy@example.org"] * 60


def test_an_invalid_field_and_a_weak_password_are_named(server: ServerProcess, peer: MailServer) -> None:
    with Client(base_url=server.url) as tiles:
        with pytest.raises(errors.InvalidRequest) as refused:
            tiles.register(name="", email="no address")
        assert {entry.pointer for entry in refused.value.errors} == {"/name", "/email"}
        tiles.register(name="Lin", email="lin@example.org")
        token = mailed_token(peer, "lin@example.org", "registering")
        with pytest.raises(errors.WeakPassword) as weak:
            tiles.confirm_registration(token=token, password="lin lin lin")
        assert weak.value.errors
        tiles.confirm_registration(token=token, password=PASSWORD)
        with pytest.raises(errors.NotFound):
            tiles.end_session(id="9b2f1f8e-6d0a-4a53-9d3c-2f6d2b1f0c11")


def test_a_limit_says_how_long_to_wait(tmp_path: Path, peer: MailServer) -> None:
    settings = send_through(peer) | {"rate_limits": "registration/address+client=1/hour"}
    with ServerProcess(tmp_path, **settings) as limited, Client(base_url=limited.url) as tiles:
        tiles.register(name="Ada", email="ada@example.org")
        with pytest.raises(errors.TooManyRequests) as refused:
            tiles.register(name="Ada", email="ada@example.org")
        assert refused.value.retry_after
        assert 0 < refused.value.retry_after <= 3600
