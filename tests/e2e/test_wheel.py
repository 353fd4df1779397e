"""The wheel builds, holds what it needs, and installs in a clean environment."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT)], check=True, timeout=300)
    (path,) = folder.glob("tidemill-*.whl")
    return path


def test_it_holds_every_file_that_is_read_at_run_time(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    source = ROOT / "src"
    wanted = {p.relative_to(source).as_posix() for p in (source / "tidemill").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert wanted - inside == set()
    assert not any(name.startswith(("tests/", "examples/")) for name in inside)
    assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_it_installs_and_says_what_is_missing_without_its_dependencies(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = next(p for p in ((tmp_path / "venv" / "bin" / "python"), (tmp_path / "venv" / "Scripts" / "python.exe")) if p.exists())
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--no-deps", str(wheel)], check=True, timeout=300)
    out = subprocess.run(
        [str(python), "-c", "import tidemill; print(tidemill.Entity('a').key)"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert out.stdout == "a\n"


def test_it_works_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = next(p for p in ((tmp_path / "venv" / "bin" / "python"), (tmp_path / "venv" / "Scripts" / "python.exe")) if p.exists())
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)], check=True, timeout=900)
    command = [str(python.parent / "tidemill")]
    subprocess.run([*command, "init", "kitchen"], check=True, cwd=tmp_path, timeout=60, capture_output=True)
    out = subprocess.run([*command, "doctor"], check=True, cwd=tmp_path / "kitchen", timeout=60, capture_output=True, text=True).stdout
    assert "✗" not in out
    done = [*command, "replay", "--from", "2024-01-22", "--to", "2024-01-27"]
    out = subprocess.run(done, check=True, cwd=tmp_path / "kitchen", timeout=120, capture_output=True, text=True).stdout
    assert "on-drift" in out
