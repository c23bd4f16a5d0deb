"""C that is compiled for the machine it runs on, and its bindings; torch stands in for all of it.

``EMOVA_NATIVE`` is the one switch: ``0`` is torch alone, ``1`` (the default) is compiled code where it can be had, told
in one line where it cannot, ``require`` is an error where it cannot. ``EMOVA_ISA`` names an instruction set of
``isa.py`` in place of the best one. ``emova info`` says what runs and why.
"""
