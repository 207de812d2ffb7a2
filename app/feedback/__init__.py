"""好差评: one rating per finished case, voluntary, its text hidden from the clerk who handled the case."""
