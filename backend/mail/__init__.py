"""Emails: the queue, what each one says, and how it leaves."""
