"""The simulator's event loop, in the part of Python that numba compiles.

Its functions are plain Python over tables of numbers: run as they are they can be stepped through, compiled (``jit``)
they are some forty times as fast, and both find the same. ``tables`` says what there is, ``loop`` what happens when.
"""
