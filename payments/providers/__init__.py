"""One file per payment provider: the vendor's words and wire format stop here."""
