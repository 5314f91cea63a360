"""What is measured: one module each, with ``measure(contender, root, **parameters)`` that gives JSON values.

``root`` is the process below which all processes of the contender are found, orphans too.
"""
