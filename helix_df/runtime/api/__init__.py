"""A running job over HTTP and in Python: text, bodies, streams, metrics, the client."""
