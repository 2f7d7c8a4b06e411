"""Tokens, passwords, keys and limits."""
