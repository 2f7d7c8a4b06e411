"""What the privacy policy promises: erasure, the ledger, policy versions, announcements."""
