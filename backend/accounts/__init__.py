"""What a person does with an account: register, sign in, change, close."""
