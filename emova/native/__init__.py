"""C that is compiled for the machine it runs on, and its bindings; torch stands in for all of it.

``EMOVA_NATIVE`` is the one switch: ``0`` is torch alone, ``1`` (the default) is compiled code where it can be had, told
in one line where it cannot, ``require`` is an error where it cannot. ``emova info`` says what runs and why.
"""
