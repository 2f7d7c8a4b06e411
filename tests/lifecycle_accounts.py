"""A model of all accounts and emails, kept beside the service: what it stores, and what it emails."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from lifecycle import BEGINNING, Account, Link, Mail, Previous, Session

UNDO = timedelta(hours=72)
GIVE_UP, FORGET = timedelta(days=2), timedelta(days=7)
SESSION_IDLE, SESSION_AGE = timedelta(days=30), timedelta(days=180)
FIRST_RETRY, LONGEST_RETRY = timedelta(seconds=15), timedelta(hours=1)
SUBJECTS = {
    "registration": "Finish registering with TILES",
    "registration, existing": "You already have a TILES account",
    "password_reset": "Reset your TILES password",
    "password_changed": "Your TILES password was changed",
    "email_change": "Confirm your new TILES address",
    "email_changed": "Your TILES email address was changed",
    "erasure_request": "Erase your TILES account?",
    "email_taken_back": "Your TILES account has its earlier address again",
    "account_closed": "Your TILES account is closed",
    "account_reopened": "Your TILES account is open again",
    "erased": "Your TILES data have been erased",
    "announcement": "News",
}


def same_address(address: str, other_address: str) -> bool:
    """Return whether two addresses are the same."""
    return address.lower() == other_address.lower()


class Accounts:
    """All accounts, sessions and queued emails."""

    def __init__(self) -> None:
        self.now, self.step = BEGINNING, 0
        self.accounts: list[Account] = []
        self.sessions: list[Session] = []
        self.queue: list[Mail] = []
        self.anonymous: set[UUID] = set()

    # Accounts and sessions

    @property
    def living(self) -> list[Account]:
        return [account for account in self.accounts if not account.erased]

    def open_with(self, email: str, but: Account | None = None) -> Account | None:
        accounts = [a for a in self.living if same_address(a.email, email) and a.closed_at is None and a is not but]
        return accounts[0] if accounts else None

    def closed_with(self, email: str) -> list[Account]:
        """Return the closed accounts with an address, the last closed first."""
        closed = [account for account in self.living if same_address(account.email, email) and account.closed_at]
        return sorted(closed, key=lambda account: account.closed_at or self.now, reverse=True)

    def held_until(self, account: Account) -> datetime | None:
        return max((until for until in account.holds if until > self.now), default=None)

    def lasts(self, session: Session) -> bool:
        """Return whether a session is valid now."""
        young = session.created_at > self.now - SESSION_AGE
        return session in self.sessions and young and session.used_on >= self.now.date() - SESSION_IDLE

    def use(self, session: Session) -> bool:
        """Use a session, and return whether it is valid."""
        if good := self.lasts(session):
            session.used_on = self.now.date()
        return good

    def end_sessions(self, account: Account, *, but: Session | None = None) -> None:
        self.sessions = [session for session in self.sessions if session.account is not account or session is but]

    # The service's own work

    def enqueue(self, kind: str, **about: object) -> Mail:
        mail = Mail(kind, self.now, self.now, **about)  # type: ignore[arg-type]
        self.queue.append(mail)
        return mail

    def tell_previous(self, account: Account) -> None:
        for previous in self.may_take_back(account):
            self.enqueue("email_changed", account=account, about=previous)

    def may_take_back(self, account: Account) -> list[Previous]:
        return [previous for previous in account.previous if previous.changed_at > self.now - UNDO]

    def forget_mails_to(self, accounts: list[Account], emails: Iterable[str]) -> None:
        """Drop emails that were requested without a session, for addresses that only these accounts have."""
        others = {account.email.lower() for account in self.living if account not in accounts}
        gone = {email.lower() for email in emails} - others

        def goes(mail: Mail) -> bool:
            if mail.account or mail.kind == "erased" or mail.email is None or mail.email.lower() not in gone:
                return False
            closed = [a.closed_at for a in accounts if a.closed_at and same_address(a.email, mail.email)]
            registering_anew = mail.kind == "registration" and not mail.abandoned_at
            return not registering_anew or any(closed_at > mail.created_at for closed_at in closed)

        self.queue = [mail for mail in self.queue if not goes(mail)]

    def erase_due(self) -> list[Account]:
        due = [a for a in self.living if a.closed_at and a.due and a.due <= self.now and not self.held_until(a)]
        if due:
            self.queue = [mail for mail in self.queue if mail.account not in due and mail.made not in due]
            self.forget_mails_to(due, [account.email for account in due])
        for account in due:
            self.end_sessions(account)
            account.erased = True
            self.enqueue("erased", email=account.email)
        return due

    def tidy(self) -> None:
        self.sessions = [session for session in self.sessions if self.lasts(session)]
        for account in self.accounts:
            account.previous = self.may_take_back(account)
            account.holds = [until for until in account.holds if until > self.now]
        old = self.now - GIVE_UP
        self.queue = [mail for mail in self.queue if mail.kind != "erased" or mail.created_at >= old]
        for mail in self.queue:
            if not mail.abandoned_at and mail.created_at < old:
                mail.abandoned_at = self.now
        self.queue = [mail for mail in self.queue if (mail.abandoned_at or self.now) >= self.now - FORGET]

    def retry(self) -> None:
        for mail in self.queue:
            if mail.attempts or mail.abandoned_at:
                mail.attempts, mail.abandoned_at, mail.created_at, mail.due_at = 0, None, self.now, self.now

    # Emails

    def due_mails(self) -> list[Mail]:
        return [mail for mail in self.queue if mail.due_at <= self.now and not mail.abandoned_at]

    def compose(self, mail: Mail) -> Link | None:  # noqa: C901, PLR0911 - a table
        """Return the email that would be made now; None if it would have no recipient."""
        email, account = mail.email or "", mail.account
        has_it = self.open_with(email)
        match mail.kind:
            case "registration" if has_it:
                return self._link(mail, has_it, "password-reset", subject="registration, existing")
            case "registration":
                return Link(email, SUBJECTS[mail.kind], mail, "registration", issued_at=self.now)
            case "password_reset":
                return self._link(mail, has_it, "password-reset")
            case "erasure_request":
                return self._link(mail, has_it or next(iter(self.closed_with(email)), None), "erasure")
            case "erased":
                return Link(email, SUBJECTS[mail.kind], mail)
            case "password_changed":
                return self._link(mail, account, None)
            case "email_taken_back":
                return self._link(mail, account, None, to=email)
            case "account_reopened" if account and not account.closed_at:
                return self._link(mail, account, None)
            case "email_change" if account and account.proof is mail.about:
                return self._link(mail, account, "email-change", to=email)
            case "email_changed" if account and mail.about in self.may_take_back(account):
                assert isinstance(mail.about, Previous)
                return self._link(mail, account, "email-change-undo", to=mail.about.email)
            case "account_closed" if account and account.closed_at:
                return self._link(mail, account, "erasure-cancel")
            case "announcement" if account and account.updates and not account.closed_at:
                return self._link(mail, account, "unsubscribe")
        return None

    def _link(
        self, mail: Mail, account: Account | None, purpose: str | None, *, to: str = "", subject: str = ""
    ) -> Link | None:
        if account is None:
            return None
        subject = SUBJECTS[subject or mail.kind]
        return Link(to or account.email, subject, mail, purpose, account, account.state, self.now)

    def handed_over(self, mail: Mail) -> None:
        self.queue.remove(mail)

    def put_off(self, mail: Mail) -> None:
        wait = min(FIRST_RETRY * 2**mail.attempts, LONGEST_RETRY)
        mail.attempts, mail.due_at = mail.attempts + 1, self.now + wait

    def give_up(self, mail: Mail) -> None:
        self.put_off(mail)
        mail.abandoned_at = self.now
        if mail.kind == "erased":
            self.queue.remove(mail)
