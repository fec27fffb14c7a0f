#!/usr/bin/env bash
# Runs every check of the project: lint and types, the built packages, the tests with the newest and with the oldest
# versions it supports, and the tests on each further Python of this machine.
#
#   tests/run.sh                        everything
#   tests/run.sh --quick [pytest ...]   the tests only, on the main Python with the newest versions; without further
#                                       words all but the slow ones
#   tests/run.sh [pytest ...]           everything; the words go to pytest in each stage
#
# PYTHON names the main Python, WORKERS how many tests run at the same time (4: most of them wait most of the time).
# MYSQL_HOST (with MYSQL_PORT, MYSQL_USER, MYSQL_PASSWORD) names a server to use; without it private ones run for as
# long as the checks. The last line is the sum of all stages: "N passed, N failed".
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=examples/support/setup.sh
. examples/support/setup.sh

WORKERS=${WORKERS:-4}
QUICK=
if [ "${1:-}" = --quick ]; then
  QUICK=1
  shift
fi

PASSED=0
FAILED=0
SERVERS=()
JOBS=()
PREPARING=()
BUT=()
WORK=$(mktemp -d "${TMPDIR:-/tmp}/offload-db-run-XXXXXX")

# Compiled once for all: each stage has several processes that import every test, and its tests start hundreds of
# programs. Without a place to keep what is compiled, that takes longer than many of the tests.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX=$WORK/compiled

# The oldest versions that pyproject.toml allows, and the oldest FastAPI that people were seen to run with it.
OLDEST=(fastapi==0.104.1 starlette==0.27.0 anyio==3.7.1 PyMySQL==1.1.0 SQLAlchemy==2.0.23 greenlet==3.2.4
  uvicorn==0.24.0)
OLDEST_OURS=(DBUtils==3.1.0 prometheus-client==0.17.0 libcst==1.1.0)
# anyio 3 works with no newer trio, and starlette 0.27 with no newer httpx.
OLDEST_TOOLS=('trio<0.22' 'httpx<0.28' greenback==1.2.0)
OLDEST_MYSQLCLIENT=mysqlclient==2.2.0
# What runs on the further Pythons, and in a quick run.
SHORT='not slow and not alone'
TEST_TOOLS=(pytest pytest-timeout pytest-xdist pytest-rerunfailures uvloop cryptography wsproto)
# What all of the library works with, without the tools that only some tests are about.
EXTRAS=(audit fastapi sqlalchemy prometheus)
FURTHER_TOOLS=(greenback blockbuster coverage httpx mysql-connector-python trio uvicorn)

# Each job is a process group of its own: what it started ends with it, and Ctrl-C reaches only this script.
set -m

# end_jobs GROUP...: end these process groups and wait until they are gone, at most 15 s.
end_jobs() {
  local group tries
  for group in "$@"; do
    kill -TERM -- "-$group" 2>/dev/null
  done
  for group in "$@"; do
    for tries in $(seq 150); do
      kill -0 -- "-$group" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL -- "-$group" 2>/dev/null
  done
}

clean_up() {
  trap '' INT TERM HUP
  trap - EXIT
  end_jobs "${JOBS[@]}" "${PREPARING[@]}" 2>/dev/null
  end_jobs "${SERVERS[@]}" 2>/dev/null
  rm -rf "$WORK"
}
trap clean_up EXIT
trap 'printf "\nended early\n" >&2; exit 130' INT
trap 'exit 143' TERM HUP

title() {
  printf '\n=== %s\n' "$*"
  STAGE_BEGAN=$SECONDS
}

# verdict NAME STATUS: count one check.
verdict() {
  if [ "$2" = 0 ]; then
    PASSED=$((PASSED + 1))
    printf -- '--- ok: %s (%s s)\n' "$1" $((SECONDS - STAGE_BEGAN))
  else
    FAILED=$((FAILED + 1))
    printf -- '--- FAILED: %s (%s s)\n' "$1" $((SECONDS - STAGE_BEGAN))
  fi
}

# run_job WORD...: run a command in the background and wait for it: a signal is handled at once, not when it ends.
run_job() {
  "$@" </dev/null &
  JOBS=($!)
  wait "${JOBS[0]}"
  local status=$?
  JOBS=()
  return "$status"
}

# inside DIRECTORY WORD...: run a command there.
inside() {
  cd "$1" && shift && exec "$@"
}

check() {
  local name=$1
  shift
  STAGE_BEGAN=$SECONDS
  run_job "$@"
  verdict "$name" $?
}

# run_tests NAME PYTHON DIRECTORY [pytest ...]: run the tests there, and add their numbers to the sum.
run_tests() {
  local name=$1 python=$2 directory=$3 report=$WORK/junit.xml status counts
  shift 3
  STAGE_BEGAN=$SECONDS
  rm -f "$report"
  run_job inside "$directory" "$python" -m pytest -q -p no:cacheprovider --junit-xml="$report" "$@"
  status=$?
  counts=$("$python" - "$report" 2>/dev/null <<'PY'
import sys
from xml.etree import ElementTree

suite = next(ElementTree.parse(sys.argv[1]).iter("testsuite"))
failed = int(suite.get("failures")) + int(suite.get("errors"))
print(int(suite.get("tests")) - failed - int(suite.get("skipped")), failed)
PY
  ) || counts="0 0"
  # shellcheck disable=SC2086  # two numbers
  set -- $counts
  PASSED=$((PASSED + $1))
  FAILED=$((FAILED + $2))
  # pytest fails without a failed test when it cannot start, or collects none.
  [ "$status" != 0 ] && [ "$2" = 0 ] && FAILED=$((FAILED + 1))
  if [ "$status" = 0 ]; then
    printf -- '--- ok: %s: %s passed (%s s)\n' "$name" "$1" $((SECONDS - STAGE_BEGAN))
  else
    printf -- '--- FAILED: %s: %s passed, %s failed, pytest ended with %s (%s s)\n' "$name" "$1" "$2" "$status" \
      $((SECONDS - STAGE_BEGAN))
  fi
}

# run_all_tests NAME PYTHON DIRECTORY LOOPS [pytest ...]: run the tests side by side, then those that need all of the
# machine. LOOPS are the event loops to test on, as pytest's -k names them; BUT has pytest's words for what is left
# out.
run_all_tests() {
  local name=$1 python=$2 directory=$3 loops=$4
  shift 4
  if [ $# -gt 0 ]; then
    run_tests "$name" "$python" "$directory" -k "$loops" "${BUT[@]}" "$@"
  else
    run_tests "$name" "$python" "$directory" -k "$loops" "${BUT[@]}" -n "$WORKERS" -m 'not alone'
    run_tests "$name, one at a time" "$python" "$directory" -k "$loops" "${BUT[@]}" -m alone
  fi
}

# start_servers NUMBER: private servers for all stages, found by them through the environment. One per worker, as a
# MariaDB holds up the kill of one SLEEP() while others begin or end.
start_servers() {
  [ -n "${MYSQL_HOST:-}" ] && return
  local number tries ports=()
  for number in $(seq "$1"); do
    "$MAIN" -m examples.support.mariadb >"$WORK/server-$number" 2>&1 &
    SERVERS+=($!)
  done
  for number in $(seq "$1"); do
    for tries in $(seq 600); do
      grep -q '^# MariaDB runs' "$WORK/server-$number" && break
      kill -0 "${SERVERS[number - 1]}" 2>/dev/null || die "$(cat "$WORK/server-$number")"
      sleep 0.1
    done
    [ "$tries" -lt 600 ] || die "the private MariaDB server did not start within a minute"
    # shellcheck source=/dev/null
    . "$WORK/server-$number"
    ports+=("$MYSQL_PORT")
  done
  export WORKERS_MYSQL_PORTS="${ports[*]}"
}

# build_packages: build both packages, and look into them.
build_packages() {
  "$MAIN" -m build --outdir "$WORK/dist" . >"$WORK/build.log" 2>&1 || {
    tail -n 30 "$WORK/build.log"
    return 1
  }
  "$MAIN" - "$WORK"/dist/*.whl "$WORK"/dist/*.tar.gz <<'PY'
import re
import sys
import tarfile
import zipfile

wheel = zipfile.ZipFile(sys.argv[1]).namelist()
sdist = [name.split("/", 1)[1] for name in tarfile.open(sys.argv[2]).getnames() if "/" in name]
tops = {name.split("/")[0] for name in wheel}
pages = {f"offload_db/contrib/status/{name}" for name in ("page.html", "page.css", "page.js", "icon.svg")}
assert pages <= set(wheel), f"the wheel lacks files of the live page: {sorted(pages - set(wheel))}"
strangers = {top for top in tops if top != "offload_db" and not top.endswith(".dist-info")}
assert not strangers, f"the wheel holds more than the library: {sorted(strangers)}"
assert "offload_db/py.typed" in wheel, "the wheel has no py.typed: its types are lost"
assert not [name for name in wheel + sdist if "__pycache__" in name], "a package holds compiled files"
for needed in ("offload_db/__init__.py", "LICENSE", "README.md", "tests/conftest.py", "pyproject.toml", ".ci/run"):
    assert needed in sdist, f"the source package lacks {needed}"
(metadata,) = (name for name in wheel if name.endswith(".dist-info/METADATA"))
fields, _, page = zipfile.ZipFile(sys.argv[1]).read(metadata).decode().partition("\n\n")
assert "\nDescription-Content-Type: text/markdown\n" in f"\n{fields}\n", "the project page is no Markdown"
lost = re.findall(r"<picture|<a id|\]\((?!https://)[^)]*\)", re.sub(r"(?ms)^```.*?^```$", "", page))
assert "## Before and after" in page and not lost, f"on the project page these lead nowhere: {lost}"
print(f"{sys.argv[1].rsplit('/', 1)[1]}: {len(wheel)} files; {sys.argv[2].rsplit('/', 1)[1]}: {len(sdist)} files")
PY
}

# outside NAME: copy all but the library, so that tests there can only import the installed wheel; print the path.
outside() {
  mkdir -p "$WORK/$1"
  cp -R tests examples pyproject.toml README.md CHANGELOG.md LICENSE .ci .github .pre-commit-hooks.yaml "$WORK/$1/" &&
    printf '%s\n' "$WORK/$1"
}

# frozen VENV: the installed versions, but for the library.
frozen() {
  "$VENVS/$1/bin/python" -m pip list --format=freeze | grep -iv '^offload[-_]db=='
}

# install_wheel VENV: install the built wheel, and see that this changed no version and left no conflict.
install_wheel() {
  local python=$VENVS/$1/bin/python
  frozen "$1" >"$WORK/versions"
  "$python" -m pip install --quiet --force-reinstall --no-deps "$WORK"/dist/*.whl >"$WORK/pip.log" 2>&1 &&
    "$python" -m pip install --quiet "$WORK"/dist/*.whl >>"$WORK/pip.log" 2>&1 || {
    tail -n 15 "$WORK/pip.log"
    return 1
  }
  frozen "$1" | diff "$WORK/versions" - || {
    printf 'installing the wheel changed the versions above\n'
    return 1
  }
  "$python" -m pip check
}

# further_pythons: print each other Python 3.10 to 3.14 that runs here, one per minor version.
further_pythons() {
  local minor candidate version main
  main=$("$PYTHON" -c 'import sys; print(sys.version_info[1])')
  for minor in 10 11 12 13 14; do
    [ "$minor" = "$main" ] && continue
    for candidate in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/"python3.$minor"; do
      # A pyenv shim is found in PATH and fails when run.
      version=$("$candidate" -c 'import sys; print(sys.version_info[1])' 2>/dev/null)
      if [ "$version" = "$minor" ] && python_works "$candidate"; then
        command -v "$candidate"
        break
      fi
    done
  done
}

# newest VENV PYTHON NAME...: these in their newest versions. Of what is installed only a part is ever imported, and
# Python compiles that when it is.
newest() {
  make_venv "$1" "$2" --no-compile --upgrade --upgrade-strategy eager "${@:3}"
}

# needed EXTRA...: what the library and these extras need, by name, one a line: an installed copy of the library would
# hide what the wheel lacks.
needed() {
  "$PYTHON" - "$@" <<'PY'
import ast
import re
import sys
from pathlib import Path

text = Path("pyproject.toml").read_text(encoding="utf-8")
lists = dict(re.findall(r"^(\w+) = (\[[^\]]*\])", text, re.MULTILINE))  # tomllib needs Python 3.11
names = {item for name in ("dependencies", *sys.argv[1:]) for item in ast.literal_eval(lists[name])}
print(*sorted(names), sep="\n")
PY
}

# prepare_others: make the virtual environments of all stages but the first.
prepare_others() {
  local python
  make_venv oldest "$PYTHON" --no-compile "${OLDEST[@]}" "${OLDEST_OURS[@]}" "${OLDEST_TOOLS[@]}" "${TEST_TOOLS[@]}" ||
    return 1
  for python in "${FURTHER[@]}"; do
    newest "tests-$(basename "$python")" "$python" "${LIBRARY[@]}" "${FURTHER_TOOLS[@]}" "${TEST_TOOLS[@]}" || return 1
  done
}

# add_mysqlclient VENV WORD: install the driver that has to be built; where that can't be done, its tests are skipped.
add_mysqlclient() {
  local python=$VENVS/$1/bin/python log=$VENVS/$1/mysqlclient.log
  "$python" -c 'import MySQLdb' 2>/dev/null && return
  if ! { ensure_client_library && "$python" -m pip install --quiet "$2"; } >"$log" 2>&1; then
    printf 'note: mysqlclient could not be built for %s, its tests are skipped; why is in %s and %s\n' "$1" "$log" \
      "$VENVS/apt.log"
  fi
}

choose_python
printf 'main Python: %s (%s)\n' "$PYTHON" "$("$PYTHON" -V)"
ensure_server
if [ -z "$QUICK" ] && ! ensure_cluster; then
  printf 'note: galera-4 and haproxy are not there and could not be installed: the tests on a cluster are skipped\n'
fi
if [ -z "$QUICK" ] && ! ensure_browser; then
  printf 'note: chromium and chromium-driver are not there and could not be installed: the tests in a browser are skipped\n'
fi

mapfile -t LIBRARY < <(needed "${EXTRAS[@]}")
mapfile -t NEWEST < <(needed "${EXTRAS[@]}" examples test)

title 'preparing the virtual environments in .venvs/ (some minutes the first time)'
MAIN=$VENVS/tests/bin/python
if [ -z "$QUICK" ]; then
  mapfile -t FURTHER < <(further_pythons)
  prepare_others &
  PREPARING=($!)
fi
run_job newest tests "$PYTHON" "${NEWEST[@]}" || exit 1
add_mysqlclient tests mysqlclient
printf -- '--- the first is done (%s s)\n' $((SECONDS - STAGE_BEGAN))
if [ -n "$QUICK" ] && [ $# -gt 0 ]; then
  start_servers 1
else
  start_servers "$WORKERS"
fi

if [ -n "$QUICK" ]; then
  title 'tests, newest versions'
  [ $# -gt 0 ] || set -- -n "$WORKERS" -m "$SHORT"
  run_tests 'newest versions' "$MAIN" "$ROOT" "$@"
else
  title 'lint, format and types'
  check 'ruff check' "$MAIN" -m ruff check --quiet .
  check 'ruff format' "$MAIN" -m ruff format --check --quiet .
  check 'mypy --strict' "$MAIN" -m mypy

  title 'packages'
  check 'wheel and source package' build_packages

  title 'the other virtual environments'
  wait "${PREPARING[0]}" || exit 1
  PREPARING=()
  add_mysqlclient oldest "$OLDEST_MYSQLCLIENT"
  printf -- '--- done (%s s)\n' $((SECONDS - STAGE_BEGAN))

  title "tests, newest versions, $("$PYTHON" -V)"
  run_all_tests 'newest versions' "$MAIN" "$ROOT" '' "$@"

  # Each test runs in the stage above. Those below leave out what they would show a second time.
  #
  # What reads this project's files alone finds the same beside any other version, and so do nodes that go.
  BUT=(--ignore tests/test_guarantees.py --ignore tests/test_layering.py --ignore tests/test_privates.py)
  BUT+=(--ignore tests/cluster)
  # A browser is the same beside any version, too.
  BUT+=(--ignore tests/contrib/test_status_browser.py)
  SEEN=("${BUT[@]}" --ignore tests/examples)
  # uvloop is the same there as beside the newest versions, and so is what faults do on trio.
  OTHERS='not uvloop and not (trio and faults)'
  title "tests ($OTHERS), oldest versions, $("$PYTHON" -V), from the wheel"
  check 'the wheel beside the oldest versions: none changed, no conflict' install_wheel oldest
  run_all_tests 'oldest versions' "$VENVS/oldest/bin/python" "$(outside oldest)" "$OTHERS" "$@"

  for python in "${FURTHER[@]}"; do
    venv=tests-$(basename "$python")
    # What uvloop does differently does not depend on the Python version: the main one's tests show it, as they do for
    # the examples and for other packages, which only use the library, or are used with it. For trio, for SQLAlchemy
    # and for the faults, which take most of the time, the highest version will do besides.
    loops='not uvloop and not trio' BUT=("${SEEN[@]}")
    case $python in
      "${FURTHER[-1]}") loops=$OTHERS ;;
      *) BUT+=(--ignore tests/faults --ignore-glob 'tests/contrib/test_sqlalchemy*') ;;
    esac
    # What reads source, or stands beside the calls, finds on a version in between what it finds on the two around it.
    case $python in
      "${FURTHER[0]}" | "${FURTHER[-1]}") ;;
      *) BUT+=(--ignore tests/audit --ignore tests/doctor --ignore tests/monitor --ignore tests/rollout) ;;
    esac
    title "tests ($loops, $SHORT), newest versions, $("$python" -V), from the wheel"
    check "the wheel on $("$python" -V)" install_wheel "$venv"
    run_tests "$("$python" -V)" "$VENVS/$venv/bin/python" "$(outside "$venv")" -n "$WORKERS" -m "$SHORT" \
      -k "$loops" "${BUT[@]}" "$@"
  done
fi

printf '\nall stages, %s s:\n%s passed, %s failed\n' "$SECONDS" "$PASSED" "$FAILED"
[ "$FAILED" = 0 ]
