"""The examples in the documents run, the links lead somewhere, and the source keeps its own rules."""
