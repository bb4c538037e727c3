"""Do the benchmarks run, and is their arithmetic right? (Not: is anything fast.)"""
