"""Write the lessons without their solutions, and on request a course that nbgrader can grade.

usage: student.py [--out DIR] [--course DIR] [--address URL] NOTEBOOK...

In a lesson an exercise is code cells, told by their first lines (nbdev_clean keeps comments, but no cell metadata):

    #| exercise: 1            what the learner writes, the solution between ### BEGIN SOLUTION and ### END SOLUTION
    #| check: 1 points=2      what tests it; an AssertionError says in words what is wrong

Several checks may follow an exercise, each with points of its own; none may need what another has set. The folders that
a lesson reads go with it.
"""
import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearMarkScheme,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
)
from traitlets.config import Config

sys.path.insert(0, str(Path(__file__).parent))
from addresses import BADGE, badge, colab_address  # noqa: E402
from writing import write_files  # noqa: E402

DIRECTIVE = re.compile(r"#\| (exercise|check): (\w+)(?: points=(\d+))?\s*(?:\n|$)")
SOLVED = re.compile(r" ?In `nbs/` the exercises are solved;\s`make student` writes [^.]*\.")
FOLDERS = "results", "figures"  # that lessons read, beside them
STUB = "# your code here\nraise NotImplementedError()"
CONFIG = Config(ClearSolutions={"code_stub": {"python": STUB}})
INTRO = """\
**Student edition.** The exercises are at the end. Write your code where it says `# your code here`,
then run the check below it: it prints nothing or a few numbers if all is well, and says what is wrong if not.
A check that has nothing to check says so, so that "Run All" gets to the end;
`%env MASKGIT_NB_STRICT=1` in a cell makes it an error."""
SETTINGS = '''\
# Leave this cell as it is: a check of an exercise that is not filled in prints a line, an error only when graded.
import os

class checked:
    def __init__(self, number): self.number = number
    def __enter__(self): return self
    def __exit__(self, kind, error, trace):
        strict = os.environ.keys() & {"NBGRADER_EXECUTION", "MASKGIT_NB_STRICT"}
        if not isinstance(error, NotImplementedError) or error.args or strict: return False
        print(f"exercise {self.number} is not filled in yet")
        return True

def forgive(lines):
    if not lines or not lines[0].startswith("#| check:"): return lines
    return [f"with checked('{lines[0].split()[2]}'):\\n", *("    " + line for line in lines)]

get_ipython().input_transformers_post[:] = [forgive]'''
COURSE_CONFIG = f'''\
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "maskgit_nb"
c.ClearSolutions.code_stub = {{"python": {STUB!r}}}
c.ExecutePreprocessor.timeout = 120
'''


def directive(cell: NotebookNode) -> tuple[str, str, int] | None:
    "(exercise or check, its number, its points) of a cell's first line, or None."
    found = DIRECTIVE.match(cell.source) if cell.cell_type == "code" else None
    return (found[1], found[2], int(found[3] or 1)) if found else None


def graded(notebook: NotebookNode) -> NotebookNode:
    """A copy with nbgrader's metadata in every exercise and check, and the cells that a student edition starts with.
    ValueError unless they come in pairs."""
    notebook = nbformat.from_dict(notebook)
    exercise, part = "", 0  # the last exercise, and how many checks it has
    for cell in notebook.cells:
        # the badge opens the solved lesson
        if cell.cell_type == "markdown": cell.source = BADGE.sub("", SOLVED.sub("", cell.source))
        kind, number, points = directive(cell) or (None, None, None)
        if kind is None: continue
        if kind == "check" and number != exercise:
            raise ValueError(f"every check needs its exercise before it; look at check {number}")
        if kind == "exercise" and exercise and not part: raise ValueError(f"exercise {exercise} has no check")
        exercise, part = (number, 0) if kind == "exercise" else (exercise, part + 1)
        state = {"grade": kind == "check", "solution": kind == "exercise", "locked": kind == "check", "task": False,
                 "grade_id": f"check-{number}-{part}" if part else f"exercise-{number}", "schema_version": 3}
        cell.metadata["nbgrader"] = state | ({"points": points} if part else {})
    if exercise and not part: raise ValueError(f"exercise {exercise} has no check")
    settings = nbformat.v4.new_code_cell(SETTINGS, id="settings", metadata={"nbgrader": {
        "grade": False, "solution": False, "locked": True, "task": False, "grade_id": "settings", "schema_version": 3}})
    notebook.cells[1:1] = [nbformat.v4.new_markdown_cell(INTRO, id="student-edition"), settings]
    return notebook


def student_edition(notebook: NotebookNode) -> NotebookNode:
    "The lesson as nbgrader would release it: solutions, hidden tests and outputs removed, checks locked."
    notebook, resources = graded(notebook), {}
    for preprocessor in (LockCells, ClearSolutions, ClearOutput, CheckCellMetadata, ClearHiddenTests, ClearMarkScheme,
                         ComputeChecksums):
        notebook, resources = preprocessor(config=CONFIG).preprocess(notebook, resources)
    return notebook


def bare(notebook: NotebookNode) -> NotebookNode:
    "A copy of a lesson that has no exercises, without its badge and its outputs."
    notebook, _ = ClearOutput(config=CONFIG).preprocess(nbformat.from_dict(notebook), {})
    notebook.cells[0].source = BADGE.sub("", notebook.cells[0].source)
    return notebook


def as_text(notebook: NotebookNode) -> str: return nbformat.writes(notebook) + "\n"


def files_of(lesson: Path, notebook: NotebookNode, edition: Callable,
             address: str | None = None) -> dict[str, str | bytes]:
    """By name the lesson in that edition, an appendix in its folder, and the files in those `FOLDERS` that its cells
    name. With the `address` of the folder on GitHub (https://github.com/USER/REPOSITORY/blob/BRANCH/FOLDER) the lesson
    has a badge that opens this edition."""
    home = lesson.parent.parent if lesson.parent.name == "appendix" else lesson.parent
    folders = [home / name for name in FOLDERS if any(f"{name}/" in cell.source for cell in notebook.cells)]
    beside = {str(path.relative_to(home)): path.read_bytes() for folder in folders
              for path in folder.rglob("*") if path.is_file()}
    made, name = edition(notebook), lesson.relative_to(home).as_posix()
    if address:
        repository, _, folder = address.rstrip("/").partition("/blob/")
        made.cells[0].source += "\n\n" + badge(colab_address(repository, f"blob/{folder}/{name}"))
    return beside | {name: as_text(made)}


def assignment_files(lesson: Path, notebook: NotebookNode) -> dict[str, str | bytes]:
    "`files_of` for nbgrader, which wants the lesson itself at the top of its assignment's folder."
    beside = files_of(lesson, notebook, graded)
    text = beside.pop(next(name for name in beside if Path(name).name == lesson.name))
    return beside | {lesson.name: re.sub("|".join(rf"\.\./(?={name}/)" for name in FOLDERS), "", text)}


def write_course(folder: Path, lessons: dict[Path, NotebookNode]) -> None:
    """An nbgrader course: each lesson an assignment in source/, and from it release/ and gradebook.db, made by nbgrader
    itself."""
    sources = {f"source/{path.stem}/{name}": content for path, notebook in lessons.items()
               for name, content in assignment_files(path, notebook).items()}
    write_files(folder, {"nbgrader_config.py": COURSE_CONFIG} | sources)
    # nbgrader calls alembic by name
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    for path in lessons:
        subprocess.run([sys.executable, "-m", "nbgrader", "generate_assignment", path.stem, "--force"], cwd=folder,
                       env=env, check=True)


def github_folder(address: str) -> str:
    "ArgumentTypeError unless it is the address of a folder on GitHub."
    if re.fullmatch(r"https://github\.com/[^/\s]+/[^/\s]+/blob/[^/\s]+(/[^\s]+)?", address): return address
    raise argparse.ArgumentTypeError(f"{address!r} is no folder on GitHub, "
                                     "https://github.com/USER/REPOSITORY/blob/BRANCH/FOLDER")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the lessons without their solutions.")
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--out", type=Path, default=Path("student"), help="folder of the student edition (student)")
    parser.add_argument("--address", type=github_folder,
                        help="where on GitHub the student edition will lie, for a badge that opens it in Colab: "
                        "https://github.com/USER/REPOSITORY/blob/BRANCH/FOLDER (none: no badge)")
    parser.add_argument("--course", type=Path,
                        help="folder of an nbgrader course with these lessons as assignments (none)")
    options = parser.parse_args(arguments)
    lessons = {path: nbformat.read(path, as_version=4) for path in options.notebooks}
    with_exercises = {path: notebook for path, notebook in lessons.items() if any(map(directive, notebook.cells))}
    editions = {path: student_edition if path in with_exercises else bare for path in lessons if path.stem != "index"}
    try:
        files = [files_of(path, lessons[path], edition, options.address) for path, edition in editions.items()]
        write_files(options.out, {name: content for part in files for name, content in part.items()})
        print(f"{len(editions)} lessons, {len(with_exercises)} of them with exercises, written to {options.out}/")
        if options.course: write_course(options.course, with_exercises)
    except FileExistsError as error: sys.exit(f"error: {error}")


if __name__ == "__main__": main()
