"""One method, one type, one error at a time."""
