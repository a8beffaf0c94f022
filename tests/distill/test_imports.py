"""The method is plain PyTorch: it imports with everything else blocked."""

import subprocess
import sys

BLOCKED = ("ray", "mlflow", "optuna", "pydantic", "torchvision", "yaml", "schedulefree", "sklearn", "pandas")

PROGRAM = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
import pkgutil, importlib, tkd_search.distill as package
for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module("tkd_search.distill." + module.name)
loaded = sorted({{name.split(".")[0] for name in sys.modules}} & set({BLOCKED!r}))
assert not loaded, loaded
ours = {{name for name in sys.modules if name.startswith("tkd_search.") and ".distill" not in name}}
assert ours <= {{"tkd_search.setting", "tkd_search.errors", "tkd_search.seeds"}}, ours
"""


def test_the_method_imports_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
