"""A model of what people do with their accounts: its promises without its implementation.

Each method changes the model as the service should have changed, and returns the code of the refusal, or None.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta

from lifecycle import Account, Link, Mail, Previous, Proof, Session, mail_row
from lifecycle_accounts import Accounts, same_address
from support import PASSWORD

LIFETIMES = {
    "registration": timedelta(hours=24),
    "password-reset": timedelta(hours=24),
    "email-change": timedelta(hours=1),
    "email-change-undo": timedelta(hours=72),
    "erasure": timedelta(hours=24),
}
GRACE, RETENTION = timedelta(days=14), timedelta(days=365)
INVALID, IN_USE = "invalid-token", "email-in-use"


class World(Accounts):
    """All accounts, sessions and queued emails, and what people and the data manager do with them."""

    # Links

    def in_time(self, link: Link) -> bool:
        return self.now - link.issued_at <= LIFETIMES.get(str(link.purpose), timedelta.max)

    def works(self, link: Link) -> bool:
        """Return whether a link is valid; its address may be in use."""
        if not self.in_time(link):
            return False
        if link.purpose == "unsubscribe":
            return True
        if link.purpose == "registration":
            return link.mail.made is None
        assert link.account
        return not link.account.erased and link.account.state == link.state

    def redeem(self, link: Link, password: str = PASSWORD) -> str | None:  # noqa: PLR0911 - a table
        """Use a link; return the code of the refusal."""
        if link.purpose == "unsubscribe":
            assert link.account
            link.account.updates = False
            return None
        # The used link of an erased account reveals at most that the address has another account.
        if link.purpose == "registration" and link.mail.made and link.mail.made.erased and self.in_time(link):
            return IN_USE if self.open_with(link.to) else INVALID
        if not self.works(link):
            return INVALID
        match link.purpose:
            case "registration":
                return self._register(link.mail, password)
            case "password-reset":
                return self._renew(link.account, password)
            case "email-change":
                return self._change_email(link.account, link.to)
            case "email-change-undo":
                return self._take_back(link.account, link.mail.about)
            case "erasure":
                return self._ask_for_erasure(link.account)
            case _:
                return self._reopen(link.account)

    def _register(self, mail: Mail, password: str) -> str | None:
        assert mail.id
        assert mail.email
        if self.open_with(mail.email):
            return IN_USE
        mail.made = Account(mail.id, mail.name, mail.email, password, renewed=self.step)
        self.accounts.append(mail.made)
        return None

    def _renew(self, account: Account | None, password: str, but: Session | None = None) -> str | None:
        assert account
        account.password, account.proof, account.renewed = password, Proof(), self.step
        self.end_sessions(account, but=but)
        self.enqueue("password_changed", account=account)
        self.tell_previous(account)
        return None

    def _change_email(self, account: Account | None, email: str) -> str | None:
        assert account
        if self.open_with(email, account):
            return IN_USE
        old, account.email, account.proof = account.email, email, Proof()
        back = [previous.changed_at for previous in self.may_take_back(account) if same_address(previous.email, email)]
        if back:
            account.previous = [previous for previous in account.previous if previous.changed_at < min(back)]
            self.enqueue("email_taken_back", email=old, account=account)
        elif not same_address(old, email):
            account.previous.append(Previous(old, self.now))
        self.tell_previous(account)
        self.forget_mails_to([account], [old])
        return None

    def _take_back(self, account: Account | None, previous: object) -> str | None:
        assert account
        if previous not in self.may_take_back(account):
            return INVALID
        assert isinstance(previous, Previous)
        if self.open_with(previous.email, account):
            return IN_USE
        old, account.email, account.proof, account.password = account.email, previous.email, Proof(), None
        self.open_again(account)
        account.previous = [other for other in account.previous if other.changed_at < previous.changed_at]
        self.end_sessions(account)
        self.enqueue("email_taken_back", email=old, account=account)
        self.enqueue("password_reset", email=previous.email)
        self.tell_previous(account)
        self.forget_mails_to([account], [old])
        return None

    def _ask_for_erasure(self, account: Account | None) -> str | None:
        assert account
        self.shut(account, erase=True)
        for other in self.closed_with(account.email):
            if other is not account and not other.asked_at:
                self.shut(other, erase=True)
        return None

    def _reopen(self, account: Account | None) -> str | None:
        assert account
        if self.open_with(account.email, account):
            return IN_USE
        self.open_again(account)
        self.tell_previous(account)
        return None

    def open_again(self, account: Account) -> None:
        if account.closed_at:
            self.enqueue("account_reopened", account=account)
        account.closed_at = account.asked_at = account.due = None

    # Acts of a person with a session and of the data manager

    def change_password(self, session: Session, current: str, new: str) -> str | None:
        account = session.account
        if current != account.password:
            return "wrong-password"
        self._renew(account, new, but=session)
        session.step = self.step
        return None

    def shut(self, account: Account, *, erase: bool, grace: timedelta = GRACE) -> None:
        if erase:
            account.asked_at = account.asked_at or self.now
            account.due = min(account.due or datetime.max.replace(tzinfo=UTC), self.now + grace)
        elif not account.closed_at:
            account.due = self.now + RETENTION
        account.closed_at, account.proof = account.closed_at or self.now, Proof()
        self.end_sessions(account)
        self.enqueue("account_closed", account=account)
        self.tell_previous(account)

    def erased_from(self, account: Account) -> datetime | None:
        """Return the earliest time of an account's erasure, as the service reports it."""
        held = self.held_until(account)
        return max(account.due, held) if account.due and held else account.due

    # Rows

    def stored(self) -> dict[str, Counter[tuple[object, ...]]]:
        """Return the expected rows of each table."""
        living = self.living
        return {
            "accounts": Counter((a.id, a.name, a.email, a.updates, a.closed_at, a.asked_at, a.due) for a in living),
            "sessions": Counter((s.id, s.account.id, s.created_at, s.used_on) for s in self.sessions),
            "previous_addresses": Counter((a.id, p.email, p.changed_at) for a in living for p in a.previous),
            "holds": Counter((a.id, until) for a in living for until in a.holds),
            "feedback": Counter(
                [(None, id_) for id_ in self.anonymous] + [(a.id, id_) for a in living for id_ in a.feedback]
            ),
            "mails": Counter(map(mail_row, self.queue)),
        }
