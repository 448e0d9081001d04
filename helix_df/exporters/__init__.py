"""A plan in the words of other serving systems: one file a target, and a registry."""
