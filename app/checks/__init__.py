"""查: queries against department systems, and the bills they find."""
