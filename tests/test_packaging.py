"""What is built is what is installed: the wheel and the sdist hold the package and nothing else."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist of a clean copy of the tree."""
    import shutil

    work = tmp_path_factory.mktemp("build")
    tree = work / "tree"
    shutil.copytree(
        ROOT,
        tree,
        ignore=shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", ".*_cache"),
    )
    command = [sys.executable, "-m", "build", "--outdir", str(work / "dist"), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    return work / "dist"


def test_wheel_and_sdist_hold_every_file(built):
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "vqathinker_jax").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert files <= names
    assert not any(name.startswith("tests/") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert files <= inside
    assert {"README.md", "LICENSE", "pyproject.toml"} <= inside


def test_installed_wheel_runs(built, tmp_path):
    """Installed away from the checkout, with the dependencies of this environment."""
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True, system_site_packages=False)
    python = tmp_path / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True)
    sites = [path for path in sys.path if path.endswith("site-packages")]
    (pure,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (pure / "dependencies.pth").write_text("\n".join(sites) + "\n")
    command = tmp_path / "env" / "bin" / "vqathinker"
    run = subprocess.run(
        [command, "make-tiny", tmp_path / "t"], check=True, capture_output=True, text=True
    )
    assert "mean nothing" in run.stdout
    # -E: a PYTHONPATH that names the checkout would hide what was installed.
    where = [python, "-E", "-c", "import vqathinker_jax; print(vqathinker_jax.__file__)"]
    out = subprocess.run(where, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert str(pure) in out.stdout
