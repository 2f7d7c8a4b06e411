"""The operations of the data manager."""
