"""What tests share with test_tokens."""

from flask import Flask
from support import NOBODY, WORD

from backend.security import tokens
from backend.security.tokens import Purpose

# All that any purpose requires: only the salt tells one purpose from another.
CONTENT = {"account": NOBODY, "change": NOBODY, "state": WORD, "name": WORD, "email": "eve@example.org"}


def real_token(app: Flask, purpose: Purpose = Purpose.REGISTRATION) -> str:
    """Return a token that is valid for its purpose."""
    with app.app_context():
        return tokens.issue(purpose, CONTENT)
