"""The promises of the privacy policy: erasure, the ledger, policy versions, announcements."""
