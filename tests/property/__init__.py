"""Random runs against a dict."""
