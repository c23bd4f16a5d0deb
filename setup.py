"""Where the packages lie; all else about the project is in setup.cfg.

Each folder of the checkout holds one package with a name of its own, so that an installed emova takes none of the names
that a user's own files have (train.py, eval/, app.py).
"""

from setuptools import find_packages, setup

ROOTS = {
    "emova": ".",
    "emova_torch": ".",
    "emova_train": "train",
    "emova_eval": "eval",
    "emova_data": "data_recipes",
    "emova_app": "app",
    "emova_bench": "benchmarks",
}

packages = [found for name, root in ROOTS.items() for found in find_packages(root, include=[name, f"{name}.*"])]
folders = {name: name if root == "." else f"{root}/{name}" for name, root in ROOTS.items()}
setup(packages=[*packages, "emova_configs"], package_dir={**folders, "emova_configs": "configs"})
