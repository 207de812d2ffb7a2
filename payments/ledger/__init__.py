"""The ledger: double entry, immutable, sealed into a hash chain. What is booked is booking.py, writing it store.py."""
