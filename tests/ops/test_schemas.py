"""Who defines the operators: Python or a native library, whichever comes first. Without Python, the library alone."""

import re
import subprocess
import sys
from pathlib import Path

import accel_ops
import pytest
import torch
from accel_ops.compilers import find_compiler
from accel_ops.operators import registration

SCHEMAS = registration._schemas

EITHER_ORDER = {
    "library first": ("torch.ops.load_library(path)", "import accel_ops"),
    "Python first": ("import accel_ops", "torch.ops.load_library(path)"),
}
WORKS = """
assert accel_ops.load() == "native"
inputs = [torch.rand(1, 2, 3, 4).requires_grad_(), torch.rand(1, 2, 3, 4).requires_grad_()]
looks = "test_schema", "test_autograd_registration", "test_faketensor"
torch.library.opcheck(torch.ops.accel_ops.warp.default, inputs, test_utils=looks)
both = accel_ops.warp, accel_ops.reference.warp
for ours, expected in zip(*(torch.autograd.grad(f(*inputs).sum(), inputs) for f in both)):
    torch.testing.assert_close(ours, expected)
assert torch.Tag.pt2_compliant_tag in torch.ops.accel_ops.warp.default.tags
print("works")
"""


def in_a_fresh_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("order", EITHER_ORDER.values(), ids=EITHER_ORDER)
def test_python_and_the_library_are_loaded_in_either_order(native_operators, order):
    head = f"import torch; path = {str(native_operators.library_file())!r}"
    seen = 'assert str(torch.ops.accel_ops.warp.default._schema).startswith("accel_ops::warp(Tensor features")'
    done = in_a_fresh_python("\n".join([head, order[0], seen, order[1], WORKS]))
    assert done.stdout == "works\n", done.stderr
    assert "Overriding a previously registered" not in done.stderr


def test_a_library_of_another_version_is_refused():
    code = "import torch; torch.library.define('accel_ops::warp', '(Tensor features) -> Tensor'); import accel_ops"
    told = in_a_fresh_python(code).stderr.splitlines()[-1]
    assert re.match("ImportError: a library of another version of accel_ops is loaded: its .*warp", told)


def test_every_operator_of_the_list_is_defined():
    assert {name for name in SCHEMAS if hasattr(torch.ops.accel_ops, name)} == SCHEMAS.keys()
    public = {name for name in SCHEMAS if not name.endswith("_backward")}
    assert public == set(accel_ops.__all__) - {"library_file", "load", "reference"}


WITHOUT_PYTHON = """
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <dlfcn.h>
#include <fstream>
#include <iostream>

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (!dlopen(argv[i], RTLD_NOW | RTLD_GLOBAL)) return std::cerr << dlerror() << std::endl, 1;
  }
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    if (name.name.rfind("accel_ops::", 0) != 0) continue;
    std::cout << dispatcher.findSchemaOrThrow(name.name.c_str(), "").schema() << std::endl;
  }
  using Warp = at::Tensor(const at::Tensor&, const at::Tensor&);
  const auto warp = dispatcher.findSchemaOrThrow("accel_ops::warp", "").typed<Warp>();
  const at::Tensor features = at::arange(6, at::kFloat).view({1, 1, 2, 3});
  std::cout << warp.call(features, at::full({1, 2, 2, 3}, 0.5f)).flatten()[0].item<float>() << std::endl;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("python.so") != std::string::npos || line.find("libpython") != std::string::npos) return 2;
  }
}
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_program_without_python_finds_and_calls_the_operators(native_operators, tmp_path):
    torch_folder = Path(torch.__file__).parent
    lib = torch_folder / "lib"
    (tmp_path / "main.cpp").write_text(WITHOUT_PYTHON)
    program = str(tmp_path / "program")
    subprocess.run(
        [*find_compiler(), "-std=c++20", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
         f"-I{torch_folder / 'include'}", str(tmp_path / "main.cpp"), "-o", program, f"-L{lib}", f"-Wl,-rpath,{lib}",
         "-ltorch", "-ltorch_cpu", "-lc10"],
        check=True,
    )  # fmt: skip
    done = subprocess.run([program, native_operators.library_file()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *schemas, result = done.stdout.splitlines()
    parsed = {torch._C.parse_schema(schema).name: torch._C.parse_schema(schema) for schema in schemas}
    assert parsed == {f"accel_ops::{n}": torch._C.parse_schema(f"accel_ops::{s}") for n, s in SCHEMAS.items()}
    assert float(result) == (0 + 1 + 3 + 4) / 4
