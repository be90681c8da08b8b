"""The house: imports go down only, siblings do not know each other, and the command starts without torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import trilemma
from trilemma.families import FAMILIES

SOURCE = Path(trilemma.__file__).parent

# From the ground up. Rooms on one floor do not import each other.
FLOORS = [
    {"files", "text", "faults"},
    {"machine", "validate", "number", "bars"},
    {"images", "vectors", "noise", "parallel", "plugins", "shipped"},
    {"blocks", "drawing", "preview"},
    {"data", "nets", "metrics"},
    {"families"},
    {"config"},
    {"run", "presets"},
    {"training", "sampling", "likelihood"},
    {"questions", "contract"},
    {"evaluation"},
    {"report"},
    {"comparison", "study"},
    {"studio"},
    {"cli"},
]


def _imports() -> list[tuple[str, str]]:
    pairs = []
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[0].startswith("__"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            pairs += [(parts[0], name.split(".")[1]) for name in names if name.startswith("trilemma.")]
    return pairs


def test_every_room_has_a_floor() -> None:
    rooms = {
        p.stem if p.suffix else p.name for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert {room for room in rooms if not room.startswith("__")} == set().union(*FLOORS)


def test_imports_only_go_down() -> None:
    floor = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
    up = {(room, other) for room, other in _imports() if room != other and floor[other] >= floor[room]}
    assert up <= {("run", "questions")}  # the method `Run.ask` hands on


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys\nfrom trilemma.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_every_public_name_is_there_and_is_no_module() -> None:
    import types

    for name in trilemma.__all__:
        assert not isinstance(getattr(trilemma, name), types.ModuleType), name


def test_every_text_file_is_opened_as_utf_8() -> None:
    """Under an ASCII locale Python would otherwise fail on the first name with an accent."""
    opened = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            words = {keyword.arg for keyword in node.keywords}
            first = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
            bare = (
                (name == "read_text" and not node.args)
                or (name == "write_text" and len(node.args) < 2)
                or (name == "open" and isinstance(first, str) and set(first) & set("rwa+") and "b" not in first)
            )
            if bare and "encoding" not in words:
                opened.append(f"{path.name}:{node.lineno}")
    assert not opened


def test_nothing_above_the_families_names_one() -> None:
    """Whoever wants to know what a model can asks for a capability; `presets` alone has a row for each family."""
    names = {*FAMILIES}
    classes = {cls.__name__ for cls in FAMILIES.values()} | {"Autoregressive", "Denoising"}
    found = []
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).with_suffix("").parts[0]
        if room in ("families", "presets"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            imported = isinstance(node, ast.ImportFrom) and {alias.name for alias in node.names} & classes
            named = isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names - {"flow"}
            if imported or named:
                found.append(f"{path.relative_to(SOURCE)}:{node.lineno}")
    assert not found


def test_tests_do_not_import_tests() -> None:
    files = {path: path.read_text("utf-8") for path in Path(__file__).parent.glob("*.py")}
    assert not [path.name for path, text in files.items() if re.search(r"^(from|import) test_", text, re.M)]
