"""Department systems: adapters behind one Protocol."""
