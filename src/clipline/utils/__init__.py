"""Helpers for every part: files, checksums, cores, threads, memory, progress, signals, revisions and the hub."""
