"""The first command: what a project has, which steps come next, and that it changes nothing unasked."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import offload_db
from examples.fuel_copilot import steps
from offload_db.__main__ import main
from offload_db.audit import audit, run_init
from offload_db.audit.run_init import BASELINE

LIVE = Path(__file__).parent / "live"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty directory, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copied(project: Path, *names: str) -> None:
    for name in names:
        shutil.copy(LIVE / f"{name}.py", project)


def contents(project: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in project.iterdir() if path.is_file()}


def initiated(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    status = main(["init", *arguments])
    return status, capsys.readouterr().out


def commands(text: str) -> list[str]:
    return re.findall(r"^ {7}((?:offload-db|python -m) .*)$", text, re.MULTILINE)


def test_what_there_is(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five lines say where pools, engines and connections are made, what is this library's, and who blocks."""
    shutil.copytree(steps.LEGACY, project / "app", ignore=shutil.ignore_patterns("__pycache__"))
    before = {path: path.read_bytes() for path in (project / "app").iterdir()}
    status, text = initiated(capsys)
    assert status == 0
    worst = "get_sensors_cache (GET /v2/truck/{truck_id}/sensors/cache and 1 more)"
    assert text.splitlines()[1:6] == [
        "  pools       PooledDB() in app/database_mysql.py:42",
        "  engines     create_engine() in app/reporting.py:14",
        "  connects    none",
        "  offload_db  none",
        f"  handlers    36 of 38 async functions reach the database; 36 block the event loop, worst of all {worst}",
    ]
    assert "  2. Look at the changes that are certain (36 decorators, 1 place where connections are made)" in text
    assert {path: path.read_bytes() for path in (project / "app").iterdir()} == before
    assert [path.name for path in project.iterdir()] == ["app"]


@pytest.mark.parametrize("name", ["kept", "engine", "connector_pool", "cached"])
def test_steps_can_be_taken(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command exists and is used rightly, and taking them in their order leads to a check that passes."""
    copied(project, name)
    status, text = initiated(capsys)
    assert status == 0
    taken = [shlex.split(command)[1:] for command in commands(text)]
    assert [words[0] for words in taken][-4:] == ["audit", "audit", "audit", "report"]
    statuses = {" ".join(words): main(words) for words in taken if words[0] in ("audit", "migrate")}
    assert statuses[f"audit . --baseline {BASELINE}"] == 0
    assert statuses[f"audit . --write-baseline {BASELINE}"] == 0
    if name != "connector_pool":
        assert statuses["migrate . --write"] == 0
        assert audit([project]).progress()[0] > 0
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--help"])
    assert caught.value.code == 0
    assert (project / "audit.json").exists()


@pytest.mark.parametrize("name", ["kept", "engine"])
def test_write(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--write does what migrate --write does; where all is migrated then, init says so and changes nothing more."""
    copied(project, name)
    (project / "by_hand").mkdir()
    shutil.copy(LIVE / f"{name}.py", project / "by_hand")
    assert main(["migrate", "by_hand", "--write", "--quiet"]) == 0
    wanted = (project / "by_hand" / f"{name}.py").read_bytes()
    shutil.rmtree(project / "by_hand")
    status, text = initiated(capsys, "--write")
    assert status == 0
    assert f"changed {name}.py" in text
    assert "Nothing here blocks the event loop: " in text
    assert "migrate" not in " ".join(commands(text))
    after = contents(project)
    assert after == {f"{name}.py": wanted}
    assert initiated(capsys, "--write")[0] == 0
    assert contents(project) == after


def test_write_what_is_left(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody can change for certain is listed, so that a check fails for new findings alone; once."""
    copied(project, "connector_pool", "kept")
    status, text = initiated(capsys, "--write")
    assert status == 0
    assert re.search(rf"^wrote {BASELINE}: \d+ findings that are left$", text, re.MULTILINE)
    assert "Change by hand what no decorator frees (1 function)" in text
    assert main(["audit", ".", "--baseline", str(BASELINE)]) == 0
    listed = BASELINE.read_bytes()
    (project / "new.py").write_text("import pymysql\n\nasync def f():\n    pymysql.connect(host='db')\n")
    status, text = initiated(capsys, "--write")
    assert (status, BASELINE.read_bytes()) == (0, listed)
    assert "wrote" not in text


def test_tests_are_left_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tests are neither counted nor changed, and the commands leave them out, too; --exclude says what else is."""
    copied(project, "engine")
    (project / "tests").mkdir()
    tests = (project / "tests" / "kept.py", project / "test_kept.py")
    for path in tests:
        shutil.copy(LIVE / "kept.py", path)
    before = [path.read_bytes() for path in tests]
    status, text = initiated(capsys, "--write")
    assert status == 0
    assert "Read 1 Python file, " in text
    assert "offload-db audit . --exclude 'tests/*' --exclude 'test_*.py'" in commands(text)
    assert [path.read_bytes() for path in tests] == before
    assert "Read 2 Python files, " in initiated(capsys, "--exclude", "test_*")[1]


def test_no_python(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory without Python is an error that says so, as is one that is not there."""
    (project / "package.json").write_text("{}", encoding="utf-8")
    assert main(["init"]) == 2
    assert "there is no Python file in it: is it the directory that was meant?" in capsys.readouterr().err
    assert main(["init", "nowhere"]) == 2
    assert "error: nowhere is not there; name files and directories that are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\n", "No database code was found, nothing of PyMySQL, "),
        ("import aiomysql, sqlite3\n", "which this library does not free: aiomysql, sqlite3."),
        ("import pymysql\ndef f():\n    return pymysql.connect()\n", "No async function reaches these: "),
    ],
)
def test_nothing_to_migrate(project: Path, capsys: pytest.CaptureFixture[str], source: str, said: str) -> None:
    """Where no database code is found, or no async function reaches it, that is said, and nothing is written."""
    (project / "app.py").write_text(source, encoding="utf-8")
    for arguments in ([], ["--write"]):
        status, text = initiated(capsys, *arguments)
        assert status == 1
        assert said in text
        assert commands(text) == []
    assert contents(project) == {"app.py": source.encode()}


def test_all_is_migrated(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where all is migrated, or only awaitable calls are made, what remains is to watch."""
    steps.apply(None, project / "app")
    status, text = initiated(capsys)
    assert status == 0
    assert "Nothing here blocks the event loop: 36 functions migrated.\n" in text
    assert [command.split()[1] for command in commands(text)] == ["doctor", "audit", "audit", "report"]
    shutil.rmtree(project / "app")
    source = "import offload_db\n\npool = offload_db.OffloadPool.from_env()\n\nasync def f():\n    await pool.ping()\n"
    (project / "app.py").write_text(source, encoding="utf-8")
    status, text = initiated(capsys)
    assert status == 0
    assert "  offload_db  offload_db.OffloadPool.from_env() in app.py:3\n" in text
    assert "Nothing here blocks the event loop.\n" in text


def test_interrupted(project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends init with a line that says so, and status 130."""
    copied(project, "kept")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_init, "examine", interrupted)
    assert main(["init"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_files_that_do_not_parse(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file that cannot be read is named, and the rest goes on; where there is no other, that is an error."""
    copied(project, "kept")
    (project / "broken.py").write_text("def f(:\n", encoding="utf-8")
    assert main(["init", "--write"]) == 0
    assert "broken.py:1: it does not parse" in capsys.readouterr().err
    (project / "kept.py").unlink()
    assert main(["init"]) == 2


@pytest.mark.parametrize("write", [False, True])
def test_without_the_extra(project: Path, write: bool) -> None:
    """Without LibCST init looks and tells what to install; only --write needs it, and then nothing is changed."""
    copied(project, "kept")
    before = contents(project)
    code = (
        "import importlib.util as u, sys; sys.modules['libcst'] = None; find = u.find_spec;"
        "u.find_spec = lambda name: None if name == 'libcst' else find(name);"
        "from offload_db.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "init", str(project), *(["--write"] if write else [])],
        cwd=Path(offload_db.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == (2 if write else 0)
    assert "pip install 'offload-db[audit]'" in (done.stderr if write else done.stdout)
    assert contents(project) == before


def test_libcst_is_there() -> None:
    """The other tests run with the extra."""
    assert importlib.util.find_spec("libcst") is not None
