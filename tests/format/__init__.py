"""The format is what docs/format.md says it is."""
