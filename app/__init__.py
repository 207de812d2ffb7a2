"""The hall's domain, free of HTTP."""
