"""The language: YAML in, frozen typed job out. Knows nothing of GPUs' speeds, graphs or processes."""
