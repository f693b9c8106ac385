"""What a user asks for: a module per verb of the command line."""
