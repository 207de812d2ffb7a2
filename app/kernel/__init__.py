"""The lowest floor: clock, ids, money, calendar, errors, events, crypto, numbers. No storage, no network."""
