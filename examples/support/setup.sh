# Sourced by examples/demo.sh and tests/run.sh: finds a Python, makes virtual environments, sees to a MariaDB server.
# Everything it makes is below .venvs/ in the repository; it never starts, stops or changes a service of the system.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
VENVS=$ROOT/.venvs
export PIP_DISABLE_PIP_VERSION_CHECK=1

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# python_works PROGRAM: whether it runs, is new enough, and can make virtual environments.
python_works() {
  "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

# choose_python: set PYTHON to the Python that the caller named, or to the first that works.
choose_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    python_works "$PYTHON" ||
      die "PYTHON=$PYTHON is not a Python 3.10 or later that can make virtual environments"
    return
  fi
  for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
    if python_works "$candidate"; then
      PYTHON=$(command -v "$candidate")
      return
    fi
  done
  die "no Python 3.10 or later that can make virtual environments was found:" \
    "install one (Debian, Ubuntu: apt-get install python3-venv), or set PYTHON to one"
}

# stamp PYTHON WORD...: what a virtual environment depends on, as one line.
stamp() {
  "$1" -c '
import hashlib, pathlib, sys
text = pathlib.Path(sys.argv[1]).read_bytes() + repr((sys.version, sys.executable, sys.argv[2:])).encode()
print(hashlib.sha256(text).hexdigest())' "$ROOT/pyproject.toml" "${@:2}"
}

# make_venv NAME PYTHON PIP-ARGUMENT...: make .venvs/NAME, unless what it depends on is what it was. Sets nothing.
make_venv() {
  local directory=$VENVS/$1 python=$2 wanted
  shift 2
  wanted=$(stamp "$python" "$@") || return 1
  if [ "$(cat "$directory/.stamp" 2>/dev/null)" = "$wanted" ] && "$directory/bin/python" -c '' 2>/dev/null; then
    return
  fi
  rm -rf "$directory"
  mkdir -p "$VENVS"
  "$python" -m venv "$directory" || return 1
  if ! (cd "$ROOT" && "$directory/bin/python" -m pip install --quiet "$@") >"$directory/pip.log" 2>&1; then
    tail -n 15 "$directory/pip.log" >&2
    printf 'error: pip could not install what %s needs; all it said is in %s\n' "${directory##*/}" \
      "$directory/pip.log" >&2
    return 1
  fi
  printf '%s\n' "$wanted" >"$directory/.stamp"
}

# have PROGRAM: whether it is installed, also where Debian puts servers.
have() {
  PATH=$PATH:/usr/sbin:/usr/local/sbin:/usr/local/bin command -v "$1" >/dev/null 2>&1
}

have_server() {
  have mariadbd && have mariadb-install-db
}

# as_root WORD...: run a command as root without asking for a password; fail where that is not possible.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    sudo -n "$@"
  else
    return 1
  fi
}

# can_apt: whether Debian's packages can be installed here.
can_apt() {
  command -v apt-get >/dev/null 2>&1 && as_root true
}

# apt_install PACKAGE...: install them and what they need, but not what they recommend; nothing is removed for them.
apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-remove --no-install-recommends "$@"
}

# ensure_server: see to it that there is a MariaDB server program, unless MYSQL_HOST names a running server.
ensure_server() {
  [ -n "${MYSQL_HOST:-}" ] && return
  have_server && return
  if can_apt; then
    printf '      installing the MariaDB server programs, without a service (about 30 s) ...\n'
    mkdir -p "$VENVS"
    # The -core packages hold the programs only: no service, no user, no data.
    if as_root apt-get update -qq >"$VENVS/apt.log" 2>&1 &&
      apt_install mariadb-server-core mariadb-client-core >>"$VENVS/apt.log" 2>&1 && have_server; then
      return
    fi
    tail -n 5 "$VENVS/apt.log" >&2
  fi
  die "no MariaDB server program was found: install one (Debian, Ubuntu: apt-get install mariadb-server)," \
    "or set MYSQL_HOST, MYSQL_PORT, MYSQL_USER and MYSQL_PASSWORD to a server whose user may create databases"
}

have_cluster() {
  have_server && have haproxy &&
    { compgen -G '/usr/lib*/galera*/libgalera_smm.so' || compgen -G '/usr/lib*/libgalera_smm.so'; } >/dev/null
}

# ensure_cluster: see to what examples/cluster needs besides the server; fail where it can't be had.
ensure_cluster() {
  have_cluster && return
  # HAProxy's package would begin a service where services are run.
  can_apt && { have haproxy || [ ! -d /run/systemd/system ]; } || return 1
  mkdir -p "$VENVS"
  local packages=(mariadb-server-core galera-4)
  have haproxy || packages+=(haproxy)
  { apt_install "${packages[@]}" || { as_root apt-get update -qq && apt_install "${packages[@]}"; }; } \
    >>"$VENVS/apt.log" 2>&1
  have_cluster
}

have_browser() {
  have chromium && have chromedriver
}

# ensure_browser: see to what the tests of the live page drive; fail where it can't be had.
ensure_browser() {
  have_browser && return
  can_apt || return 1
  mkdir -p "$VENVS"
  local packages=(chromium chromium-driver)
  { apt_install "${packages[@]}" || { as_root apt-get update -qq && apt_install "${packages[@]}"; }; } \
    >>"$VENVS/apt.log" 2>&1
  have_browser
}

have_client_library() {
  pkg-config --exists libmariadb 2>/dev/null || pkg-config --exists mysqlclient 2>/dev/null
}

# ensure_client_library: see to what mysqlclient is built with; fail where it can't be had.
ensure_client_library() {
  have_client_library && return
  can_apt || return 1
  mkdir -p "$VENVS"
  local packages=(gcc libc6-dev libmariadb-dev pkg-config)
  { apt_install "${packages[@]}" || { as_root apt-get update -qq && apt_install "${packages[@]}"; }; } \
    >>"$VENVS/apt.log" 2>&1
  have_client_library
}
