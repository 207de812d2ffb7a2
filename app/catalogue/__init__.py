"""Divisions, agencies, items and their versions, guides, search, knowledge."""
