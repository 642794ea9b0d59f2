"""Prints, as JSON, the public names of FlashInfer's attention modules in one version of its wheel,
which pip fetches: what docs/flashinfer.md has to name. A file's names are its functions and classes
without an underscore; a package's are those that it says, or imports.

Usage: python3 scripts/flashinfer_names.py VERSION >test/flashinfer-names.json
"""

import ast
import glob
import json
import subprocess
import sys
import tempfile
import zipfile

MODULES = "page decode prefill attention cascade pod sparse mla xqa quantization".split()


def strings(node):
    """String literals below a node."""
    found = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
    return [value for value in found if isinstance(value, str)]


def names(wheel, path):
    """Public names of a file of the wheel."""
    package = path.endswith("/__init__.py")
    found = set()
    for node in ast.parse(wheel.read(path)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            target = node.targets[0].id
            if target == "__all__":
                return sorted(strings(node.value))
            if target.endswith("_LAZY_EXPORTS"):
                found.update(strings(node.value))
        elif package and isinstance(node, ast.ImportFrom) and node.level == 1:
            for alias in node.names:
                if alias.name != "*":
                    found.add(alias.asname or alias.name)
                else:
                    found.update(names(wheel, f"{path.rpartition('/')[0]}/{node.module}.py"))
    return sorted(name for name in found if not name.startswith("_"))


version = sys.argv[1]
with tempfile.TemporaryDirectory() as folder:
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
    subprocess.run([*pip, f"flashinfer-python=={version}"], check=True)
    with zipfile.ZipFile(glob.glob(f"{folder}/*.whl")[0]) as wheel:
        files = set(wheel.namelist())
        modules = {}
        for module in MODULES:
            package = f"flashinfer/{module}/__init__.py"
            path = package if package in files else f"flashinfer/{module}.py"
            modules[module] = names(wheel, path)
print(json.dumps({"version": version, "modules": modules}, indent=2))
