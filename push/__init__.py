"""Telling: an event becomes a message in its person's inbox, and goes out on the channel that reaches that person."""
