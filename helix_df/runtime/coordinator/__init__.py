"""The coordinator of a job: its requests and nodes as machines, what it knows of KV cache, and a thin shell."""
