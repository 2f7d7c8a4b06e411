"""Steps that several tests of tokens share."""

from flask import Flask
from support import NOBODY, WORD

from backend.security import tokens
from backend.security.tokens import Purpose

# The content that every purpose requires: only the salt distinguishes them.
CONTENT = {"account": NOBODY, "change": NOBODY, "state": WORD, "name": WORD, "email": "eve@example.org"}


def real_token(app: Flask, purpose: Purpose = Purpose.REGISTRATION) -> str:
    """Return a token that is valid for its purpose."""
    with app.app_context():
        return tokens.issue(purpose, CONTENT)
