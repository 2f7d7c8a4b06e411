"""What people do with a session: the rules of the state machine that need one."""

from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import rule
from lifecycle import Session
from lifecycle_steps import EMAILS, PASSWORDS, Steps

emails = st.sampled_from(EMAILS)
passwords = st.sampled_from(PASSWORDS)
picks = st.integers(0, 11)
mostly = st.sampled_from([True, True, True, False])
seldom = st.sampled_from([False, False, False, True])


class SignedIn(Steps):
    """A rule is a step of a person with a session."""

    def session(self, pick: int) -> Session:
        """Return a session that should be valid, or seldom any session of this life."""
        if pick and not any(map(self.world.lasts, self.sessions)):
            self.sign_in(next((a.email for a in self.world.living if not a.closed_at), EMAILS[0]), right=True)
        good = [session for session in self.sessions if self.world.lasts(session)]
        sessions = good if pick and good else self.sessions
        return sessions[pick % len(sessions)]

    @rule(pick=picks, resource=st.sampled_from(["account", "sessions", "account/export"]))
    def look(self, pick: int, resource: str) -> None:
        session = self.session(pick)
        refusal, account, before = self.use(session), session.account, self.run.rows()
        response = self.call("GET", f"/v1/{resource}", refusal, 200, session)
        after = self.run.rows()
        for row in [*before["sessions"], *after["sessions"]]:
            del row["last_used_on"]
        assert after == before, "a GET changed something"
        if refusal:
            return
        if resource == "account":
            fields = response.json["name"], response.json["email"], response.json["email_updates"]
            assert fields == (account.name, account.email, account.updates)
        elif resource == "sessions":
            mine = {str(s.id) for s in self.world.sessions if s.account is account and self.world.lasts(s)}
            assert {entry["id"] for entry in response.json["sessions"]} == mine
        else:
            stored = {table["table"]: table["rows"] for table in response.json["stored"]}
            assert [row["id"] for row in stored["accounts"]] == [str(account.id)]
            assert {row["id"] for row in stored["feedback"]} == set(map(str, account.feedback))

    @rule(pick=picks, change=st.sampled_from(["name", "no name", "mails", "no mails"]))
    def change_settings(self, pick: int, change: str) -> None:
        session = self.session(pick)
        refusal, account = self.use(session), session.account
        name = self.text(account) if change == "name" else None
        body = {"email_updates": change == "mails"} if "mails" in change else {"name": name}
        self.call("PATCH", "/v1/account", refusal, 200, session, json=body)
        if refusal is None:
            account.name = account.name if "mails" in change else name
            account.updates = change == "mails" if "mails" in change else account.updates

    @rule(pick=picks, right=mostly, new=passwords)
    def change_password(self, pick: int, *, right: bool, new: str) -> None:
        session = self.session(pick)
        current = self.password(session.account, right=right)
        refusal = self.use(session) or self.world.change_password(session, current, new)
        body = {"current_password": current, "new_password": new}
        self.call("PUT", "/v1/account/password", refusal, 204, session, json=body)

    @rule(pick=picks, right=mostly, email=emails)
    def ask_for_email_change(self, pick: int, *, right: bool, email: str) -> None:
        session = self.session(pick)
        account, refusal = session.account, self.again(session, right=right)
        body = {"email": email, "password": self.password(account, right=right)}
        self.call("POST", "/v1/account/email-changes", refusal, 202, session, json=body)
        if refusal is None:
            self.world.enqueue("email_change", email=email, account=account, about=account.proof)

    @rule(pick=picks, email=emails, forgetful=st.booleans())
    def move(self, pick: int, email: str, *, forgetful: bool) -> None:
        """Change the address, from the request to the link; if forgetful, ask for a reset at the old one in between."""
        old = self.session(pick).account.email
        self.ask_for_email_change(pick, right=True, email=email)
        self.check()
        self.deliver_to({})
        if forgetful:
            self.ask("password_reset", old, by_page=False)
        if self.links and self.links[-1].purpose == "email-change":
            self.use_link(self.links[-1], PASSWORDS[0], by_page=False)

    @rule(by_page=seldom)
    def take_back(self, *, by_page: bool) -> None:
        """Use the newest undo link, whether or not it still works."""
        self.deliver_to({})
        notices = [link for link in self.links if link.purpose == "email-change-undo"]
        if notices:
            self.use_link(notices[-1], PASSWORDS[0], by_page=by_page)

    @rule(pick=picks, right=mostly, erase=st.booleans())
    def close(self, pick: int, *, right: bool, erase: bool) -> None:
        session = self.session(pick)
        account, refusal = session.account, self.again(session, right=right)
        body = {"password": self.password(account, right=right), "erase": erase}
        if refusal is None:
            self.world.shut(account, erase=erase)
        response = self.call("POST", "/v1/account/close", refusal, 200, session, json=body)
        if refusal is None:
            self.shown_as_closed(account, response)

    @rule(pick=picks, other_pick=picks, which=st.sampled_from(["current", "all", "other"]))
    def sign_out(self, pick: int, other_pick: int, which: str) -> None:
        session, other = self.session(pick), self.session(other_pick)
        refusal = self.use(session)
        mine = other in self.world.sessions and other.account is session.account
        path = {"current": "/v1/sessions/current", "all": "/v1/sessions", "other": f"/v1/sessions/{other.id}"}[which]
        refusal = refusal or ("not-found" if which == "other" and not mine else None)
        self.call("DELETE", path, refusal, 204, session)
        if refusal is None:
            gone = {"current": [session], "other": [other]}.get(which, self.world.sessions)
            everybody = self.world.sessions
            self.world.sessions = [s for s in everybody if s not in gone or s.account is not session.account]

    @rule(pick=st.none() | picks)
    def send_feedback(self, pick: int | None) -> None:
        session = None if pick is None else self.session(pick)
        refusal = self.use(session) if session else None
        account = session.account if session else None
        message, key = self.text(account), {"Idempotency-Key": f"k-{self.world.step}"}
        options: dict[str, Any] = {"json": {"message": message}, "headers": key}
        response = self.call("POST", "/v1/feedback", refusal, 201, session, **options)
        if refusal is None:
            assert self.call("POST", "/v1/feedback", None, 201, session, **options).json == response.json
            (account.feedback if account else self.world.anonymous).add(UUID(response.json["id"]))
