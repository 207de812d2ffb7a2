"""Benchmarks: ratios against a bare Tornado handler, side by side in one run. Run by ./hall bench."""
