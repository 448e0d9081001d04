"""Other systems that serve the same checkpoint, one file each, behind one interface: see ``system``.

A system's file has two halves. ``systems`` runs here and says how to start it; ``load`` runs in a child process, under
the interpreter where that system is installed, and alone imports it. The product depends on none of them.
"""
