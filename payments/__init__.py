"""Paying: orders and attempts, their providers, notifications, receipts. Knows nothing of cases or departments (see provider.py, sources.py)."""
