"""Storms: processes that work on one store at once and are killed, and a checker of what they saw."""
