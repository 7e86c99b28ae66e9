"""Training over several processes: the process group, gathered embeddings and sharded towers."""
