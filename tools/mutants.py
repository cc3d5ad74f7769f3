"""Mutation testing: change one thing at a time in a module, and see whether a test fails.

usage: mutants.py [MODULE...]

The changes are those of mutmut. Not changed are types, docstrings, errors' texts and what draws figures. A mutant is
tried by the tests that run through its function, quick ones and those that killed its neighbours first; among them are
the checks of the module's own lesson. What is found goes to build/mutants.jsonl, line by line; what is there is
not tried again.
"""
import argparse
import ast
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).resolve().parent.parent
LESSONS = {"attention": "03_attention", "masking": "05_masking", "schedules": "06_schedules",
           "decoding": "07_decoding", "inpainting": "08_inpainting"}
FIGURES = ("show_attention", "show_steps", "__getattr__")
TESTS = ["tests/test_decoding.py", "tests/test_properties.py", "tests/test_bad_input.py",
         *(f"tests/test_judges.py::test_{name}" for name in (
             "attention_before_torchs_multihead_attention", "decode_before_diffusers_scheduler",
             "the_choice_of_what_stays_masked_before_diffusers", "halton_order_before_scipy",
             "poisson_blend_before_scipys_direct_solution", "schedules_before_googles_formulas",
             "counts_before_googles_formula")),
         *(f"tests/test_device.py::test_{name}" for name in (
             "inpaint_gives_the_cpus_numbers", "pictures_are_mended_wherever_they_are", "inpaint_needs_no_float64",
             "generating_needs_no_float64", "functions_give_the_cpus_numbers")),
         "tools/mutants.py"]
OURS = ("maskgit_nb", "conftest", *{Path(test.split("::")[0]).stem for test in TESTS})
PARTS = 4  # of each module: one part of all modules is tried after the other
SLOW = 4  # seconds of processor: a test that takes longer is left out


# --- mutants

class Places(cst.CSTVisitor):
    "All changes that mutmut knows: `found` holds (line, node, changed node)."
    def __init__(self, positions): self.found, self.positions = [], positions

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Raise | cst.Import | cst.ImportFrom): return False
        if isinstance(node, cst.IndentedBlock) and ends_with_raise(node): return False
        if isinstance(node, cst.FunctionDef) and node.name.value in FIGURES: return False
        if isinstance(node, cst.Assign) and cst.ensure_type(node.targets[0], cst.AssignTarget).target.deep_equals(
                cst.Name("__all__")): return False
        if isinstance(node, cst.Expr) and isinstance(node.value, cst.SimpleString | cst.ConcatenatedString):
            return False
        line = self.positions[node].start.line
        for kind, operator in mutation_operators:
            if isinstance(node, kind): self.found += [(line, node, changed) for changed in operator(node)]
        return True


def ends_with_raise(block: cst.IndentedBlock) -> bool:
    last = block.body[-1]
    return isinstance(last, cst.SimpleStatementLine) and isinstance(last.body[-1], cst.Raise)


def mutants(source: str) -> Iterator[tuple[int, str]]:
    "The line and the whole source of each mutant that Python can compile."
    wrapper = MetadataWrapper(cst.parse_module(source))
    lines = source.splitlines(keepends=True)
    for part, statement in zip(wrapper.module.body, ast.parse(source).body, strict=True):
        places = Places(wrapper.resolve(PositionProvider))
        part.visit(places)
        first = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", []))])
        before, after = "".join(lines[:first - 1]), "".join(lines[statement.end_lineno:])
        seen = {ast.dump(statement)}
        for line, node, changed in places.found:
            code = wrapper.module.code_for_node(part.deep_replace(node, changed).with_changes(leading_lines=[]))
            try: meaning = "".join(ast.dump(each) for each in ast.parse(code).body)
            except SyntaxError: continue
            if meaning not in seen: yield line, before + code + after
            seen.add(meaning)


def changed_line(source: str, code: str) -> tuple[str, str]:
    "Where two sources differ: from the first such line to the last."
    old, new = source.splitlines(), code.splitlines()
    while old and new and old[0] == new[0]: old.pop(0), new.pop(0)
    while old and new and old[-1] == new[-1]: old.pop(), new.pop()
    return "\n".join(line.strip() for line in old), "\n".join(line.strip() for line in new)


def functions(source: str) -> list[tuple[int, int, str]]:
    "First line, last line and name of each function, and of each method by itself."
    found = []
    for node in ast.parse(source).body:
        for part in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(part, ast.FunctionDef):
                first = min([part.lineno, *(decorator.lineno for decorator in part.decorator_list)])
                name = part.name if part is node else f"{node.name}.{part.name}"
                found.append((first, part.end_lineno, name))
    return found


# --- the checks of a lesson

def lesson_cells(module: str) -> list[str]:
    "The code of a lesson, cell by cell."
    notebook = json.loads((ROOT / "nbs" / f"{LESSONS[module]}.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def checks(cells: list[str], module: str) -> list[ast.stmt]:
    """The statements of the last of a lesson's `cells` that check something, and those they need; what is exported is
    taken from the module."""
    statements = []
    for source in cells:
        exported = "#| export" in source
        try: body = ast.parse(source).body
        except SyntaxError: continue  # a line for IPython
        imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        if not exported: statements += body
        else:
            names = sorted({name for node in body if node not in imports for name in stored(node)})
            statements += imports
            if names: statements += ast.parse(f"from maskgit_nb.{module} import {', '.join(names)}").body
    wanted, kept, last = set(), [], len(statements) - len(body)
    for i, node in reversed([*enumerate(statements)]):
        checks = i >= last and any(checking(part) for part in ast.walk(node))
        if checks or stored(node) & wanted:
            kept.append(node)
            wanted |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return kept[::-1]


def checking(node: ast.AST) -> bool:
    called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    return isinstance(node, ast.Assert) or called.startswith("test_")


def stored(node: ast.stmt) -> set[str]:
    "The names that a statement gives a value to, or whose value it may change."
    if isinstance(node, ast.FunctionDef | ast.ClassDef): return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    found = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    for part in ast.walk(node):
        if isinstance(part, ast.comprehension): found -= {name.id for name in ast.walk(part.target)
                                                          if isinstance(name, ast.Name)}
        if isinstance(part, ast.Attribute | ast.Subscript) and isinstance(part.ctx, ast.Store): found |= root(part)
    for line in ast.walk(node):
        if isinstance(line, ast.Expr) and not ast.unparse(line).startswith(("print(", "show_", "plt.")):
            found |= {part.id for part in ast.walk(line) if isinstance(part, ast.Name)}
    return found


def root(node: ast.expr) -> set[str]:
    "The name before all dots and brackets, if it is not alone."
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
        if isinstance(node, ast.Name): return {node.id}
    return set()


CELLS = [(module, i) for module in LESSONS for i, source in enumerate(lesson_cells(module), 1)
         if "assert " in source or "test_" in source]


@pytest.mark.parametrize("module, cell", [(module, i) for module, i in CELLS
                                          if checks(lesson_cells(module)[:i], module)])
def test_lesson(module: str, cell: int, monkeypatch: pytest.MonkeyPatch):
    "The checks of a cell of the module's lesson, run on the module."
    monkeypatch.chdir(ROOT / "nbs")
    names = {"__name__": "lesson"}
    for statement in checks(lesson_cells(module)[:cell], module):
        exec(compile(ast.Module([statement], []), LESSONS[module], "exec"), names)


# --- running

def apart(work, limit: float) -> dict:
    "What `work()` gives, in a process of its own; or what ended that process, such as its time."
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit)))
        resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))  # a wrong size must not take the machine
        silence = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2): os.dup2(silence, stream)
        try: found = work()
        except BaseException as error: found = {"killed": f"import: {error!r}"}
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream: text = stream.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else {"killed": f"signal {os.WTERMSIG(status)}"}


def renew(old: object, new: object) -> None:
    "Give functions, and those of a class, another's code, so that it is seen wherever they have been imported to."
    if isinstance(old, type):
        for name, part in vars(old).items():
            if name in vars(new): renew(part, vars(new)[name])
    for wrapper in ("__wrapped__", "__func__", "fget"):
        if hasattr(old, wrapper): renew(getattr(old, wrapper), getattr(new, wrapper))
    if hasattr(old, "__code__") and not hasattr(old, "__wrapped__"):
        old.__code__, old.__defaults__ = new.__code__, new.__defaults__


class Mutants:
    "A plugin of pytest that runs the tests it has collected, not once but for each mutant."
    def __init__(self, modules: list[str], seconds: float, again: bool):
        self.modules, self.seconds, self.again = modules, seconds, again
        self.failed, self.log = None, ROOT / "build" / "mutants.jsonl"

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.failed: self.failed = report.nodeid

    def run(self, items: list) -> str | None:
        "The first of these tests that fails."
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed: return self.failed

    def survey(self, items: list) -> dict:
        "Of each test the seconds it takes, and the lines of the modules in which functions begin that it calls."
        paths, found = {str(path_of(module)): module for module in LESSONS}, {}
        late = set()
        def stop(*_):
            late.add(item.nodeid)
            raise TimeoutError
        signal.signal(signal.SIGPROF, stop)
        for item in items:
            seen, start = set(), time.process_time()
            def note(frame, event, _, seen=seen):
                if event == "call" and frame.f_code.co_filename in paths:
                    seen.add((paths[frame.f_code.co_filename], frame.f_code.co_firstlineno))
            signal.setitimer(signal.ITIMER_PROF, SLOW)
            sys.setprofile(note)
            failed = self.run([item])
            sys.setprofile(None)
            signal.setitimer(signal.ITIMER_PROF, 0)
            seconds, self.failed = time.process_time() - start, None
            if failed and item.nodeid not in late: return {"failed": failed}
            found[item.nodeid] = (seconds, [] if failed else sorted(seen))
        return found

    def judge(self, module: str, code: str, items: list, in_function: bool) -> dict:
        "Which test fails if `module` has this code."
        name, path = f"maskgit_nb.{module}", str(path_of(module))
        spec = importlib.util.spec_from_file_location(name, path)
        spec.loader.get_code = lambda name: compile(code, path, "exec")
        old, new = sys.modules[name], importlib.util.module_from_spec(spec)
        spec.loader.exec_module(new)
        for key, value in vars(old).items():
            if getattr(value, "__module__", None) == name: renew(value, vars(new).get(key))
        if in_function: return {"killed": self.run(items)}
        for key, value in vars(old).items():  # a constant, which may have been imported elsewhere
            if key.isupper():
                for other in [*sys.modules.values()]:
                    if vars(other).get(key) is value and other.__name__.split(".")[0] in OURS:
                        setattr(other, key, vars(new)[key])
        return {"killed": self.run(items)}

    def pytest_runtestloop(self, session):
        gc.freeze()
        self.log.parent.mkdir(exist_ok=True)
        kept, items = ROOT / "build" / "mutants_tests.json", {item.nodeid: item for item in session.items}
        tests = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        tests |= apart(lambda: self.survey([item for test, item in items.items() if test not in tests]), 3600)
        if "failed" in tests: sys.exit(f"without any change a test fails: {tests['failed']}")
        kept.write_text(json.dumps(tests), encoding="utf-8")
        tests = {test: found for test, found in tests.items() if test in items}
        for part in range(PARTS):
            for module in self.modules: self.try_all(module, items, tests, part)
        return True

    def try_all(self, module: str, items: dict, tests: dict, part: int) -> None:
        self.log.touch()
        rows = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        done = {(row["module"], row["line"], row["now"]) for row in rows if row["killed"] or not self.again}
        kills = {}
        for row in rows:
            if row["module"] == module: kills.setdefault(row["name"], Counter())[row["killed"]] += 1
        source = path_of(module).read_text(encoding="utf-8")
        named = functions(source)
        for line, code in [*mutants(source)][part::PARTS]:
            was, now = changed_line(source, code)
            if (module, line, now) in done: continue
            outside = (0, len(source), "(module)")
            first, last, name = next((each for each in named if each[0] <= line <= each[1]), outside)
            killers = kills.setdefault(name, Counter())
            chosen = [test for test, (_, lines) in tests.items()
                      if any(place == module and first <= at <= last for place, at in lines)]
            chosen = in_order(chosen, {test: tests[test][0] for test in chosen}, killers)
            spent = [*accumulate(tests[test][0] for test in chosen)]
            chosen = [test for test, total in zip(chosen, spent, strict=True) if total <= self.seconds]
            start = time.time()
            row = apart(lambda code=code, chosen=chosen, name=name: self.judge(
                module, code, [items[test] for test in chosen], name != "(module)"), 10 + 3 * self.seconds)
            killers[row["killed"]] += 1
            row |= {"module": module, "line": line, "name": name, "was": was, "now": now, "tests": len(chosen)}
            with self.log.open("a", encoding="utf-8") as stream: stream.write(json.dumps(row) + "\n")
            state = "killed" if row["killed"] else "ALIVE "
            print(f"{module}:{line} {state} {time.time() - start:5.1f} s  {now}", file=sys.__stderr__, flush=True)


def in_order(chosen: list[str], seconds: dict[str, float], kills: Counter) -> list[str]:
    "First what has killed, then a case of each test, the quickest, then a second case of each, and so on."
    case, keys = Counter(), {}
    for test in sorted(chosen, key=seconds.get):
        case[test.split("[")[0]] += 1
        keys[test] = -kills[test], case[test.split("[")[0]], seconds[test]
    return sorted(chosen, key=keys.get)


def path_of(module: str) -> Path: return ROOT / "maskgit_nb" / f"{module}.py"


def main() -> None:
    from hypothesis import Phase, settings
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=[*LESSONS], metavar="MODULE", help=", ".join(LESSONS))
    parser.add_argument("--seconds", type=float, default=20, help="processor time for each mutant (20)")
    parser.add_argument("--again", action="store_true", help="try those again that no test killed before")
    args = parser.parse_args()
    os.chdir(ROOT)
    settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate))  # not the simplest example
    settings.load_profile("mutants")  # what tests/conftest.py begins from
    options = ["-s", "-q", "--tb=no", "-p", "no:cacheprovider", "-W", "ignore"]
    sys.exit(pytest.main([*options, *TESTS], plugins=[Mutants(args.modules, args.seconds, args.again)]))


if __name__ == "__main__": main()
