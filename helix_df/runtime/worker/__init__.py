"""A worker: its machine, the engine that computes batches on paged KV cache, and a thin shell."""
