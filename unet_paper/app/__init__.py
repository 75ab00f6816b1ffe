"""Commands for people who have files: what one types, what is read from the files, what is printed.

It sits on top: it may import every other part of this package, and no other part imports it. Its commands hold no
method of their own; they check what they are given, call the wings, and say what came out.
"""
