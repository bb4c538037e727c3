"""Whose memory is it: which files need recovery."""
