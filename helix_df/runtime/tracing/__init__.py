"""Traces of requests: spans as values, how a request's time is shared among its hops and links, and clocks."""
