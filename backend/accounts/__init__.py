"""What a person does with an account. Each operation in web/api.py lists the errors that its function raises."""
