"""A cluster of this machine: an API server that is strict, or a real one, and hosts that run what pods say."""
