"""What verbs are made of: train, search, score, shift, finish, latency."""
