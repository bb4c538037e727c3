"""Files that lie: a fuzz target of the engine alone, and named files made by hand; see docs/testing.md."""
