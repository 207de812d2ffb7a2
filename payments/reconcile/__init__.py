"""Reconciliation (对账): each day's bill of each provider against our own attempts and refunds, both ways."""
