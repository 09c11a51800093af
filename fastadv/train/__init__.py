"""The reference trainer: a recipe to trained students, their report, and their accuracy under attack.

Each package imports from those before it and from none after: ``runtime`` (files, processes, errors); ``data`` and
``networks``, by name; ``config`` (recipes and flags to methods with their options); ``loop`` (a recipe's networks,
trained); ``report``; ``robustness`` (a network under attack); and ``cli``, the command line.
"""
