"""What happens to a request, said once: the runtime's state machines call these rules, and the simulator compiles them.

``admission``, ``batching``, ``micro_batches``, ``pages`` and ``retries`` decide on plain numbers, in functions that a
compiler of a subset of Python can take as they are: none calls another. ``routing`` and ``schedulers`` choose
pipelines.
"""
