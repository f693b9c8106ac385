"""What pyproject.toml has no words for: the recipes go into the package that is built."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithRecipes(build_py):
    """Copies `recipes/` beside the modules; a checkout that is installed as it is has them."""

    def run(self) -> None:
        """Builds the modules, then copies."""
        super().run()
        if not self.editable_mode:
            here = Path(__file__).parent / "recipes"
            shutil.copytree(here, Path(self.build_lib, "manyshot", "recipes"), dirs_exist_ok=True)


setup(cmdclass={"build_py": WithRecipes})
