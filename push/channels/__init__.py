"""One file per channel: the words and the wire format of a vendor stop here."""
