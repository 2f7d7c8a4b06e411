"""Clients that use the service and retry properly, and a record of what it acknowledged."""

import re
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import httpx2
from chaos.peers import Postbox
from peers import text_of
from support import OTHER_PASSWORD, PASSWORD

LINK = re.compile(r"^https?://\S+/(registration|password-reset)#(\S+)$", re.MULTILINE)
CONFIRM = {"registration": "/v1/registrations/confirm", "password-reset": "/v1/password-resets/confirm"}
CHOSEN = {"registration": PASSWORD, "password-reset": OTHER_PASSWORD}
NOTICE = "password-changed"
PAUSE_SECONDS = 0.1
RETRY_SECONDS = 0.25


class Load:
    """Threads that register, send feedback, redeem emailed links and reset passwords until they are stopped."""

    def __init__(self, url: str, postbox: Postbox) -> None:
        self._url, self._postbox = url, postbox
        self._stop, self._threads = threading.Event(), list[threading.Thread]()
        self._pair = ThreadPoolExecutor(2)
        # The acknowledged data: the emails owed to each address, the stored messages, the accounts.
        self.owed: dict[str, set[str]] = defaultdict(set)
        self.messages, self.people = set[str](), set[str]()
        self.accepted: Counter[tuple[str, str]] = Counter()
        self.answers: Counter[int | str] = Counter()
        self._acknowledged_at: list[float] = []

    def start(self) -> None:
        for work in (self._writes, self._writes, self._reads):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop the threads after their last response."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _http(self) -> httpx2.Client:
        return httpx2.Client(base_url=self._url, timeout=75)

    def _send(self, http: httpx2.Client, path: str, body: dict[str, Any], **headers: str) -> httpx2.Response | None:
        """Send once; return None without a response."""
        try:
            response = http.post(path, json=body, headers=headers)
        except httpx2.TransportError as error:
            self.answers[type(error).__name__] += 1
            return None
        self.answers[response.status_code] += 1
        if response.is_success:
            self._acknowledged_at.append(time.monotonic())
        return response

    def _until_answered(
        self, http: httpx2.Client, path: str, body: dict[str, Any], **headers: str
    ) -> httpx2.Response | None:
        """Send until there is a final response or the load ends."""
        while True:
            response = self._send(http, path, body, **headers)
            if response is not None and response.status_code < 500:
                return response
            if self._stop.wait(RETRY_SECONDS):
                return None

    def _is_acknowledged(self, http: httpx2.Client, path: str, body: dict[str, Any], **headers: str) -> bool:
        """Send until it is acknowledged, refused, or the load ends."""
        answer = self._until_answered(http, path, body, **headers)
        return answer is not None and answer.is_success

    def _writes(self) -> None:
        with self._http() as http:
            while not self._stop.wait(PAUSE_SECONDS):
                address, message = f"{uuid.uuid4().hex}@example.org", uuid.uuid4().hex
                if self._is_acknowledged(http, "/v1/registrations", {"name": "Ada", "email": address}):
                    self.owed["registration"].add(address)
                key = {"Idempotency-Key": f'"{message}"'}
                if self._is_acknowledged(http, "/v1/feedback", {"message": message}, **key):
                    self.messages.add(message)

    def _reads(self) -> None:
        read = 0
        with self._http() as http:
            while not self._stop.wait(PAUSE_SECONDS):
                for message in list(islice(self._postbox.messages, read, read + 5)):
                    read += 1
                    self._redeem(http, str(message["To"]), *link_of(text_of(message)))

    def _redeem(self, http: httpx2.Client, address: str, purpose: str, token: str) -> None:
        """Redeem a token twice concurrently, with retries until there is a response; then request a reset."""
        if purpose == NOTICE:
            return
        body = {"token": token, "password": CHOSEN[purpose]}
        again = self._pair.submit(self._until_answered, http, CONFIRM[purpose], body)
        answers = [answer for answer in (self._until_answered(http, CONFIRM[purpose], body), again.result()) if answer]
        self._note(purpose, address, token, answers)
        if purpose == "registration" and any(answer.is_success for answer in answers):
            self.people.add(address)
            if self._is_acknowledged(http, "/v1/password-resets", {"email": address}):
                self.owed["password-reset"].add(address)

    def _note(self, purpose: str, address: str, token: str, answers: list[httpx2.Response]) -> None:
        accepted = sum(answer.is_success for answer in answers)
        # Each email of a registration has its own token, and all of them make one account.
        self.accepted[purpose, _key(purpose, address, token)] += accepted
        if accepted and purpose == "password-reset":
            self.owed[NOTICE].add(address)

    def redeem_again(self) -> None:
        """Try every token that was mailed once more."""
        with self._http() as http:
            for message in self._postbox.messages:
                purpose, token = link_of(text_of(message))
                if purpose == NOTICE or not self.accepted[purpose, _key(purpose, str(message["To"]), token)]:
                    continue
                body = {"token": token, "password": CHOSEN[purpose]}
                answer = self._send(http, CONFIRM[purpose], body)
                self._note(purpose, str(message["To"]), token, [answer] if answer else [])

    @property
    def accepted_twice(self) -> int:
        return sum(count > 1 for count in self.accepted.values())

    @property
    def acknowledged(self) -> int:
        return len(self._acknowledged_at)

    def written_since(self, moment: float) -> float | None:
        """Return when a request was first acknowledged after a moment."""
        return next((at for at in self._acknowledged_at if at > moment), None)

    def all_owed(self) -> set[tuple[str, str]]:
        """Return which mails are owed by now."""
        return {(purpose, address) for purpose, owed in list(self.owed.items()) for address in list(owed)}

    def mailed_by(self, owed: set[tuple[str, str]]) -> float:
        """Return when the last of some mails arrived for the first time."""
        first: dict[tuple[str, str], float] = {}
        for message, moment in zip(self._postbox.messages, self._postbox.moments, strict=False):
            first.setdefault((link_of(text_of(message))[0], str(message["To"])), moment)
        return max((first[mail] for mail in owed & first.keys()), default=0.0)

    def unsent(self) -> list[tuple[str, str]]:
        """Return which mails are owed and did not arrive."""
        arrived = defaultdict(set)
        for message in list(self._postbox.messages):
            arrived[link_of(text_of(message))[0]].add(str(message["To"]))
        # A second registration of an address with an account sends a link for a reset.
        arrived["registration"] |= arrived["password-reset"]
        return [(purpose, address) for purpose, owed in self.owed.items() for address in owed - arrived[purpose]]

    def sent_twice(self) -> int:
        """Count the emails that arrived again, by their Message-ID."""
        copies = Counter(str(message["Message-ID"]) for message in self._postbox.messages)
        return sum(count - 1 for count in copies.values())

    def misstored(self, rows: Callable[[str], list[str]]) -> list[str]:
        """Return the acknowledged messages and accounts that are missing or stored more than once."""
        stored, people = Counter(rows("SELECT message FROM feedback")), set(rows("SELECT email FROM accounts"))
        missing = [message for message in self.messages if stored[message] == 0]
        return missing + [message for message, count in stored.items() if count > 1] + sorted(self.people - people)


def _key(purpose: str, address: str, token: str) -> str:
    return address if purpose == "registration" else token


def link_of(text: str) -> tuple[str, str]:
    """Return which page a mail leads to, and the token in its link."""
    link = LINK.search(text)
    return (link[1], link[2]) if link else (NOTICE, "")
