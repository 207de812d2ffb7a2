"""Settings, logging, and the data an operator may change."""
