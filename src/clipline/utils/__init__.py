"""What every part may use: files, checksums, cores, threads, memory, progress, signals, revisions and the hub."""
