"""Networks and functions that turn frames and sentences into vectors."""
