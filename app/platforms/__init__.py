"""Thin async clients of the platforms (WeChat, Alipay) and the one HTTP client that every call to the outside goes through."""
