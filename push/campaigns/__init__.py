"""Campaigns (群发通知): an agency tells a segment of residents something, after a second person agreed; each of them once."""
