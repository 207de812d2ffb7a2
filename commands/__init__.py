"""One module per command, and assembly.py, the only place where parts are put together."""
