"""Spin models, and the command that runs them."""
