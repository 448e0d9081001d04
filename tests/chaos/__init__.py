"""Jobs of real processes on hosts that are network namespaces: links cut, hosts gone, spies and strangers."""
