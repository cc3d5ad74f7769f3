"Metadata come from settings.ini, the one place that nbdev reads too."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

parser = ConfigParser(delimiters=["="])
parser.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]
EXTRAS = ("notebook", "perceptual", "fid", "data", "shards", "live", "colab", "teaching", "site", "browser", "judges",
          "mutation")
extras = {name: settings[f"{name}_requirements"].split() for name in EXTRAS}
tested = "notebook", "fid", "shards", "live", "teaching", "site", "browser", "judges"

setup(name=settings["lib_name"], version=settings["version"], description=settings["description"],
      long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
      long_description_content_type="text/markdown", author=settings["author"], author_email=settings["author_email"],
      url=settings["git_url"] if settings.getboolean("published") else "", license="Apache-2.0",
      keywords=settings["keywords"], packages=["maskgit_nb"], package_data={"maskgit_nb": ["weights/*/*", "static/*"]},
      python_requires=">=" + settings["min_python"], install_requires=settings["requirements"].split(),
      extras_require=extras
      | {"notebooks": extras["notebook"],
         "dev": sum((extras[name] for name in tested), settings["dev_requirements"].split())},
      entry_points={"console_scripts": ["maskgit-nb = maskgit_nb.cli:main"]},)
