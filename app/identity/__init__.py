"""Residents, their channel identities, sessions and tokens, real name; staff accounts."""
