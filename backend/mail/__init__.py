"""Emails: the queue, the content of each kind, and the delivery."""
