"""The tests of mmkv, by question: unit, property, format, cli, docs, crash, sharing, corrupt."""
