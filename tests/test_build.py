"""The build: a wheel that works elsewhere, a source distribution that has all, and what is said without a compiler."""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import nvcc
import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "fastadv", "kernels", "csrc")
MISSING = "no-such-compiler"

USE = """
import warnings
import torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastadv
from fastadv.ops.dispatch import report, serving
print(fastadv.__file__)
print([str(warning.message) for warning in caught if "fastadv" in str(warning.message)])
print(serving("cpu"))
x = torch.rand(2, 3)
print(torch.equal(fastadv.project(x + 1, x, eps=0.0), x), fastadv.kl_distill(x, x).abs().item() < 1e-6)
print(report())
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The sources of the project, with nothing that was built."""
    unbuilt = shutil.ignore_patterns("__pycache__", "*.so", "_build.json")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=unbuilt, symlinks=True)
        else:
            shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments in the project, which comes first among the places it imports from."""
    variables = os.environ | {"PYTHONPATH": str(project)} | environment
    finished = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=variables, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished


def build(project: Path, **environment: str) -> str:
    """What the build said."""
    finished = run(project, "setup.py", "build_ext", "--inplace", **environment)
    assert not (project / "fastadv" / "_cpu.so").exists()
    return finished.stdout + finished.stderr


def use(project: Path) -> tuple[str, str, str, str]:
    """Warnings at import, the backend in force, whether ops work, and the report."""
    file, *seen, results, report = run(project, "-c", USE).stdout.split("\n", 4)
    assert file == str(project / "fastadv" / "__init__.py")
    warned, serving = seen
    return warned, serving, results, report


def test_without_a_compiler_no_earlier_library_is_left_and_the_reference_serves(project):
    (project / "fastadv" / "_cpu.so").write_bytes(b"of an earlier build")
    said = build(project, CXX=MISSING, CC=MISSING)
    assert said.count("no compiled library") == 1
    assert MISSING in said
    warned, serving, results, report = use(project)
    assert warned.count("fastadv runs on its reference") == 1
    assert MISSING in warned
    assert serving == "reference"
    assert results == "True True"
    assert MISSING in report
    assert "was not built" in report


def test_an_extension_that_is_not_wanted_is_not_missed(project):
    said = build(project, USE_CPP="0")
    assert "USE_CPP=0" in said
    warned, serving, results, report = use(project)
    assert warned == "[]"
    assert serving == "reference"
    assert results == "True True"
    assert "USE_CPP=0" in report


def test_an_installation_records_that_none_was_wanted(project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(project, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(folder), USE_CPP="0", USE_CUDA="0")
    (made,) = folder.iterdir()
    with zipfile.ZipFile(made) as archive:
        record = json.loads(archive.read("fastadv/_build.json"))
        assert (record["cpu"], record["sources"]) == ("not asked for (USE_CPP=0)", nvcc.sources_digest())
        assert "fastadv/_cpu.so" not in archive.namelist()


def test_a_fresh_checkout_says_how_to_build(project):
    warned, serving, results, _ = use(project)
    assert "pip install" in warned
    assert serving == "reference"
    assert results == "True True"


ELSEWHERE = """
import fastadv, torch
from fastadv import attacks
from fastadv.ops.dispatch import serving
print(fastadv.__file__, serving("cpu"))
x = torch.rand(2, 3, 8, 8)
moved = fastadv.pgd_step(x, torch.ones_like(x), x, eps=0.1, step_size=0.02)
print(torch.allclose(moved, (x + 0.02).clamp(max=1)))
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
print(float((attacks.pgd(network, x, torch.tensor([0, 1]), eps=0.1, steps=2, seed=0) - x).abs().max()) > 0.05)
"""


def called(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What the command said; its failure is the test's. Nothing of this process' path to packages is handed on."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    finished = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this tree, which compiles only what the last build or installation here did not."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("wheel")
    # What an earlier build has put together must not get into the wheel.
    fresh = f"[build]\nbuild_lib = {folder / 'lib'}\n[egg_info]\negg_base = {folder}\n"
    (folder / "fresh.cfg").write_text(fresh)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation")
    called(*pip, "--wheel-dir", folder / "dist", ROOT, cwd=folder, DIST_EXTRA_CONFIG=str(folder / "fresh.cfg"))
    (made,) = (folder / "dist").iterdir()
    return made


def test_one_wheel_for_every_python_has_the_library_and_the_licence(wheel):
    assert wheel.name.startswith("fastadv-")
    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(about))
        assert json.loads(archive.read("fastadv/_build.json"))["cpu"] == "built"
    assert {"fastadv/_cpu.so", "fastadv/kernels/step.py", "fastadv/train/recipes/digits.toml"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"fastadv", about.split("/")[0]}
    assert f"{about.split('/')[0]}/licenses/LICENSE" in names
    assert (metadata["License-Expression"], metadata["Author"]) == ("MIT", "fastadv contributors")
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(
        metadata.get_all("Classifier")
    )


def test_the_wheel_works_in_an_environment_that_has_torch_and_takes_no_second_one(wheel, tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True, with_pip=False)
    python, packages = (
        environment / "bin" / "python",
        environment / "lib" / f"python{sys.version[:4]}" / "site-packages",
    )
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if "fastadv" not in installed.name and not (packages / installed.name).exists():
            (packages / installed.name).symlink_to(installed)
    # Without an index nothing else can be brought; the extras are what errors advise to install.
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-index")
    called(*pip, wheel, cwd=tmp_path)
    pydantic = packages / "pydantic"
    pydantic.rename(packages / "elsewhere")
    assert "pgd_step" in called(environment / "bin" / "fastadv", "doctor", cwd=tmp_path)
    train = subprocess.run((environment / "bin" / "fastadv", "train"), cwd=tmp_path, capture_output=True, text=True)
    assert (train.returncode, "pip install 'fastadv[train]'" in train.stderr) == (2, True)
    (packages / "elsewhere").rename(pydantic)
    called(*pip, "fastadv[train]", cwd=tmp_path)
    where, op, attack = called(python, "-c", ELSEWHERE, cwd=tmp_path).splitlines()
    assert where == f"{packages / 'fastadv' / '__init__.py'} cpu"
    assert (op, attack) == ("True", "True")
    assert "pgd_step" in called(environment / "bin" / "fastadv", "doctor", cwd=tmp_path)


def test_a_source_distribution_has_all_that_builds_and_tests(project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    for name in ("Makefile", "CONTRIBUTING.md", "tests", "benchmarks"):
        (project / name).symlink_to(ROOT / name)
    run(project, "-c", f"import build_backend; build_backend.build_sdist({str(folder)!r})", PYTHONPATH="csrc/tools")
    (made,) = folder.iterdir()
    with tarfile.open(made) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"LICENSE", "README.md", "pyproject.toml", "setup.py", "csrc/tools/build_backend.py", "csrc/cpu/step.cpp"}
    assert needed | {"csrc/cuda/step.cu", "csrc/common/step.h", "fastadv/kernels/step.py", "kernels/step.py"} <= names
    assert {"Makefile", "CONTRIBUTING.md", "tests/test_build.py", "benchmarks/__main__.py"} <= names
    assert not [name for name in names if name.endswith((".so", "_build.json", ".pyc"))]


HIDE = """
import site, sys
folders = {kept!r}
sys.path[:] = [path for path in sys.path if path not in {{*site.getsitepackages(), site.getusersitepackages()}}]
site.getsitepackages = lambda: folders
site.getusersitepackages = lambda: "/nowhere"
"""


@pytest.mark.parametrize("there", [True, False])
def test_a_build_apart_asks_for_torch_only_where_there_is_none(project, tmp_path_factory, there):
    """As pip builds: in a process that sees none of the packages that are installed."""
    packages, apart = Path(sysconfig.get_path("purelib")), tmp_path_factory.mktemp("apart")
    (apart / "sitecustomize.py").write_text(HIDE.format(kept=[str(packages)] if there else []))
    for part in (*packages.glob("setuptools*"), packages / "_distutils_hack"):
        (apart / part.name).symlink_to(part)
    ask = (
        "import build_backend, sys, importlib.util\n"
        "print(build_backend.get_requires_for_build_wheel(), importlib.util.find_spec('torch') is not None)"
    )
    path = os.pathsep.join((str(apart), "csrc/tools"))
    said = run(project, "-c", ask, PYTHONPATH=path, USE_CPP="0").stdout.splitlines()[-1]
    assert said == ("[] True" if there else "['torch>=2.10', 'numpy'] False")
