"""Importing this module makes torchvision importable, also where torch was told not to load plug-ins."""

from emova.core.operators import declare_torchvision

declare_torchvision()
