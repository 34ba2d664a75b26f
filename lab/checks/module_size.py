"""Keep modules and functions small: past the limit there is a second idea, to be named and moved.

The aim is 400 lines a module and 50 a function; the limits leave a tenth for what reads better in one piece. A
function's docstring does not count: promises may be long. Generated code is not looked at.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
MODULE_LINES = 440
FUNCTION_LINES = 55
TEST_MODULE_LINES = 600  # tables of cases are long and simple

FOLDERS = {"src": MODULE_LINES, "lab": MODULE_LINES, "bench": MODULE_LINES, "tests": TEST_MODULE_LINES}


def faults(text: str, name: str, *, module_lines: int) -> Iterator[str]:
    """What is too long in one module, as `file:line: ...`."""
    lines = text.count("\n")
    if lines > module_lines:
        yield f"{name}:1: {lines} lines, more than {module_lines}: find the second idea, name it and move it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = _code_lines(node)
            if length > FUNCTION_LINES:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines, more than {FUNCTION_LINES}"


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        length -= (first.end_lineno or first.lineno) - first.lineno + 1
    return length


def main() -> int:
    """Print every fault; 1 when there is one."""
    found: list[str] = []
    for folder, limit in FOLDERS.items():
        for file in sorted((REPOSITORY / folder).rglob("*.py")):
            if "generated" not in file.parts:
                name = str(file.relative_to(REPOSITORY))
                found.extend(faults(file.read_text(), name, module_lines=limit))
    print("\n".join(found) or f"every module and function of {', '.join(FOLDERS)} is within its limit")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
