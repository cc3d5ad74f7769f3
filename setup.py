"Metadata come from settings.ini, the one place that nbdev reads too."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

parser = ConfigParser(delimiters=["="])
parser.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]
requirements = {key: settings[key].split() for key in ("requirements", "notebook_requirements", "perceptual_requirements",
                                                       "fid_requirements", "data_requirements", "shards_requirements", "dev_requirements")}
notebook = requirements["notebook_requirements"]

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    license="Apache-2.0",
    keywords=settings["keywords"],
    packages=["maskgit_nb"],
    package_data={"maskgit_nb": ["weights/*/*"]},
    python_requires=">=" + settings["min_python"],
    install_requires=requirements["requirements"],
    extras_require={
        "notebooks": notebook,
        "perceptual": requirements["perceptual_requirements"],
        "fid": requirements["fid_requirements"],
        "data": requirements["data_requirements"],
        "shards": requirements["shards_requirements"],
        "dev": notebook + requirements["fid_requirements"] + requirements["shards_requirements"] + requirements["dev_requirements"],
    },
    entry_points={"console_scripts": ["maskgit-nb = maskgit_nb.cli:main"]},
)
