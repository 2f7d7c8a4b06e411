"""Signing in: behind emails to nobody, beside Argon2id alone, and what a flood of it costs others."""

from collections.abc import Iterator
from functools import partial

from bench.figures import Figure, Options, beside, in_rounds
from bench.floods import flooding, others
from bench.raw import Job, raw
from bench.requests import Target, load, post
from bench.stage import CORES, EMAIL, HASH, Stage, stage
from support import PASSWORD

EMAILS = 30_000
OF_NO_BACKLOG, OF_ARGON2, TIMES_SLOWER = 0.9, 0.95, 2.0
RIGHT = post("/v1/sessions", email=EMAIL, password=PASSWORD)


def measure(options: Options) -> Iterator[Figure]:
    """Measure all three."""
    with stage() as on:
        session = on.have_ada()
        with on.server(CORES) as server:
            yield _behind_emails(options, on, on.target(server, is_sending=False))
        with on.server() as server:
            own = partial(on.target(server).load, RIGHT, seconds=options.seconds)
            alone = partial(raw, Job("argon2", HASH, options.seconds), threads=CORES)
            loads = in_rounds(options.rounds, {"own": own, "alone": alone})
            yield beside("sign in, one process", loads["own"], "raw Argon2id", loads["alone"], bar=OF_ARGON2)
        yield from _in_a_flood(options, on, session)


def _behind_emails(options: Options, on: Stage, own: Target) -> Figure:
    def behind() -> object:
        on.enqueue(EMAILS, kind="password_reset", email="nobody@example.org")
        return own.load(RIGHT, seconds=options.seconds)

    measures = {"behind": behind, "before": partial(own.load, RIGHT, seconds=options.seconds)}
    loads = in_rounds(options.rounds, measures)  # type: ignore[arg-type]
    name = f"sign in, {EMAILS:,} emails to nobody waiting"
    return beside(name, loads["behind"], "without", loads["before"], bar=OF_NO_BACKLOG)


def _in_a_flood(options: Options, on: Stage, session: str) -> Iterator[Figure]:
    """Measure what 16 others wait for while 64 connections sign in, beside what they usually wait for."""
    with on.server() as server:
        for name, request in others(session).items():
            usual = load(server.url, request, seconds=options.seconds)
            on.forget_mails()
            with flooding("sign-ins", server.port):
                during = load(server.url, request, seconds=options.seconds)
            on.forget_mails()
            yield Figure(name=f"{name}: p99 in a flood of sign-ins", value=during.p99, unit="ms",
                         beside="without the flood", beside_value=usual.p99, ratio=during.p99 / usual.p99,
                         bar=None if name == "GET /healthz" else TIMES_SLOWER, at_most=True,
                         errors=during.errors)  # fmt: skip
