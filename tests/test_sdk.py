"""The SDK against the real service, over a real socket, with the links out of really sent mails."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import OTHER_PASSWORD, PASSWORD, MailServer, ServerProcess, token_of, wait_for

from tiles_client import AsyncClient, Client, ServiceUnreachable, errors


@pytest.fixture(scope="module")
def peer() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, peer: MailServer) -> Iterator[ServerProcess]:
    settings = {"mail_server": peer.host, "mail_port": peer.port, "rate_limits": "off"}
    with ServerProcess(tmp_path_factory.mktemp("sdk"), **settings) as process:
        yield process


def mailed_token(peer: MailServer, email: str, subject: str) -> str:
    """Wait for the newest mail to somebody about something; return the token from its link."""
    found = wait_for(
        lambda: [mail for mail in peer.messages if mail["To"] == email and subject in str(mail["Subject"])]
    )
    peer.messages.remove(found[-1])
    return token_of(found[-1])


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


def test_each_refusal_is_its_own_exception(server: ServerProcess, peer: MailServer) -> None:
    with Client(base_url=server.url) as tiles:
        with pytest.raises(errors.WrongCredentials):
            tiles.sign_in(email="nobody@example.org", password=PASSWORD)
        with pytest.raises(errors.InvalidRequest) as refused:
            tiles.register(name="", email="no address")
        assert {entry.pointer for entry in refused.value.errors} == {"/name", "/email"}
        with pytest.raises(errors.InvalidToken):
            tiles.confirm_password_reset(token="made up", password=PASSWORD)
        with pytest.raises(errors.Unauthenticated):
            tiles.account()
        tiles.register(name="Lin", email="lin@example.org")
        token = mailed_token(peer, "lin@example.org", "registering")
        with pytest.raises(errors.WeakPassword) as weak:
            tiles.confirm_registration(token=token, password="lin lin lin")
        assert weak.value.errors
        tiles.confirm_registration(token=token, password=PASSWORD)
        with pytest.raises(errors.WrongPassword):
            tiles.change_password(current_password=OTHER_PASSWORD, new_password=PASSWORD)
        with pytest.raises(errors.NotFound):
            tiles.end_session(id="9b2f1f8e-6d0a-4a53-9d3c-2f6d2b1f0c11")


def test_a_limit_says_how_long_to_wait(tmp_path: Path, peer: MailServer) -> None:
    settings = {"mail_server": peer.host, "mail_port": peer.port, "rate_limits": "registration/address=1/hour"}
    with ServerProcess(tmp_path, **settings) as limited, Client(base_url=limited.url) as tiles:
        tiles.register(name="Ada", email="ada@example.org")
        with pytest.raises(errors.TooManyRequests) as refused:
            tiles.register(name="Ada", email="ada@example.org")
        assert refused.value.retry_after
        assert 0 < refused.value.retry_after <= 3600


def test_a_service_that_is_away_is_another_error_than_one_that_refuses() -> None:
    with Client(base_url="http://127.0.0.1:9", timeout=1) as tiles, pytest.raises(ServiceUnreachable):
        tiles.register(name="Ada", email="ada@example.org")
    assert not issubclass(errors.WrongCredentials, ServiceUnreachable)
