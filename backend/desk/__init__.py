"""What the data manager does with accounts."""
