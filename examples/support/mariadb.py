"""Owns the database server of the demo and the tests: a private MariaDB on loopback, or an existing one.

A private server keeps everything in a temporary directory, listens on 127.0.0.1 only and ends with the process that
started it. It never touches a server that the system runs. It does not know what is stored in it.
"""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pymysql

from examples.support.ports import LOOPBACK, free_port
from examples.support.processes import end, start

__all__ = ["Endpoint", "PrivateServer", "ServerFailed", "ServerMissing", "find_program", "server", "user_option"]

HOST = LOOPBACK
USER = "root"
PASSWORD = "loopback-only"  # anybody who can read the temporary directory could read it there, too

# Small and quick to start. Durability is worth nothing in a directory that is deleted afterwards.
SERVER_OPTIONS = (
    "--skip-name-resolve",
    "--skip-log-bin",
    "--local-infile=1",
    "--performance-schema=OFF",
    "--character-set-server=utf8mb4",
    "--max-connections=400",
    "--max-connect-errors=4294967295",
    "--max-allowed-packet=64M",
    "--innodb-buffer-pool-size=256M",
    "--innodb-log-file-size=64M",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-flush-method=nosync",
)

# sockaddr_un holds 108 bytes with the closing zero; some systems hold fewer.
LONGEST_SOCKET_PATH = 103


class ServerMissing(RuntimeError):
    """Raised when no MariaDB server program is installed."""

    def __init__(self) -> None:
        super().__init__(
            "no MariaDB server program was found: install one (Debian and Ubuntu: apt-get install mariadb-server), "
            "or set MYSQL_HOST, MYSQL_PORT, MYSQL_USER and MYSQL_PASSWORD to a server whose user may create databases"
        )


class ServerFailed(RuntimeError):
    """Raised when the server program ends, or stays silent, instead of accepting connections.

    Also where the server that MYSQL_HOST names cannot be used.
    """


class _PortTaken(ServerFailed):
    """Raised when something else listens on the port that was meant for this server."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens, and as whom to log in."""

    host: str
    port: int
    user: str
    password: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Endpoint | None:
        """Read MYSQL_HOST, MYSQL_PORT, MYSQL_USER and MYSQL_PASSWORD; None if MYSQL_HOST is not set.

        :raises ServerFailed: if MYSQL_PORT is not the number of a port
        """
        host = environ.get("MYSQL_HOST")
        if not host:
            return None
        port = environ.get("MYSQL_PORT") or "3306"
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ServerFailed(
                f"MYSQL_PORT={port!r} is not a port: give a number from 1 to 65535, or unset it for 3306"
            )
        return cls(
            host,
            int(port),
            environ.get("MYSQL_USER") or USER,
            environ.get("MYSQL_PASSWORD") or "",
        )

    def settings(self, database: str | None = None) -> dict[str, Any]:
        """Return the keyword arguments of `pymysql.connect`."""
        settings = {"host": self.host, "port": self.port, "user": self.user, "password": self.password}
        return settings if database is None else {**settings, "database": database}

    def environment(self, database: str | None = None) -> dict[str, str]:
        """Return the same as environment variables, for a child process."""
        variables = {
            "MYSQL_HOST": self.host,
            "MYSQL_PORT": str(self.port),
            "MYSQL_USER": self.user,
            "MYSQL_PASSWORD": self.password,
        }
        if database is not None:
            variables["MYSQL_DATABASE"] = database
        return variables


class PrivateServer:
    """Run a MariaDB server in a temporary directory.

    Start and stop it from one thread: on Linux the kernel ends the server with the thread that started it.

    :param port: the port on 127.0.0.1; None picks a free one
    :param options: more server options, each as one word, such as ``--wait-timeout=1``
    :param data: a data directory to begin with a copy of, with the accounts in it; None makes an empty one
    :param env: the environment of the server's process; None gives it this process's own
    :param start_timeout: seconds until the server must accept connections
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        options: Sequence[str] = (),
        data: Path | None = None,
        env: Mapping[str, str] | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        self.port = port
        self.options = tuple(options)
        self.data = data
        self.env = env
        self.start_timeout = start_timeout
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = f"pid {self._process.pid}" if self.running and self._process else "not running"
        return f"<PrivateServer {HOST}:{self.port} {state}>"

    def __enter__(self) -> PrivateServer:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens; only known once it has been started."""
        if self.port is None:
            raise ServerFailed("the private MariaDB server has no port yet: start it first")
        return Endpoint(HOST, self.port, USER, PASSWORD)

    @property
    def directory(self) -> Path:
        """Where the server keeps everything; only known once it has been prepared."""
        if self._directory is None:
            raise ServerFailed("the private MariaDB server has no directory yet: prepare or start it first")
        return self._directory

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server wrote into its error log."""
        if self._directory is None:
            return ""
        with suppress(FileNotFoundError):
            return (self._directory / "server.log").read_text(encoding="utf-8", errors="replace")
        return ""

    def start(self) -> None:
        """Initialise the data directory if it is new, start the server and wait until it accepts connections.

        :raises ServerMissing: if no MariaDB server program is installed
        :raises ServerFailed: if it does not accept connections within ``start_timeout``
        """
        if self.running:
            return
        program = find_program("mariadbd") or _find_as_mysqld()
        if program is None:
            raise ServerMissing
        _end_with_this_process(self)
        self.prepare()
        picked = self.port is None
        # Another program can take a free port between the look and the server's start: look again.
        for attempts_left in (2, 1, 0) if picked else (0,):
            if picked:
                self.port = free_port()
            try:
                self._launch(program, self.directory)
                return
            except _PortTaken:
                self.kill()
                if not attempts_left:
                    raise
            except BaseException:
                self.kill()
                raise

    def prepare(self) -> None:
        """Initialise the data directory if it is new, and start nothing yet.

        :raises ServerMissing: if no MariaDB server program is installed
        :raises ServerFailed: if it makes no data directory
        """
        if self._directory is not None:
            return
        self._directory = _temporary_directory()
        try:
            self._initialise(self._directory)
        except BaseException:
            self.remove()
            raise

    def stop(self, timeout: float = 20.0) -> None:
        """Shut the server down in order, by force after *timeout* seconds; the data stays for the next start."""
        if self._process is None:
            return
        end(self._process, timeout)
        self._process = None

    def kill(self) -> None:
        """End the server at once, as a power cut would; the data stays for the next start."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop the server and start it again on the same port with the same data."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """End the server and delete its data."""
        self.kill()  # an orderly shutdown takes a second to save what is deleted in the next line
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        _started.discard(self)

    def _initialise(self, directory: Path) -> None:
        """Create the system tables and the file of statements that the server runs at each start."""
        (directory / "tmp").mkdir()
        if self.data is not None:
            shutil.copytree(self.data, directory / "data")
            return
        program = find_program("mariadb-install-db") or find_program("mysql_install_db")
        if program is None:
            raise ServerMissing
        done = subprocess.run(
            [
                program,
                "--no-defaults",
                f"--datadir={directory / 'data'}",
                f"--tmpdir={directory / 'tmp'}",  # servers that share one remove each other's temporary tables
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
                "--innodb-log-file-size=64M",
                *user_option(),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            tail = done.stdout.decode(errors="replace")[-2000:]
            raise ServerFailed(f"{program} ended with status {done.returncode}:\n{tail}")
        # One statement per line: the server reads this file line by line.
        (directory / "init.sql").write_text(
            f"CREATE OR REPLACE USER '{USER}'@'{HOST}' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO '{USER}'@'{HOST}' WITH GRANT OPTION;\n",
            encoding="utf-8",
        )

    def _launch(self, program: str, directory: Path) -> None:
        """Start the server's process and wait until it answers."""
        # mariadbd refuses to truncate; the log of an earlier start would hide why this one failed.
        (directory / "server.log").unlink(missing_ok=True)
        command = [
            program,
            "--no-defaults",
            f"--datadir={directory / 'data'}",
            f"--tmpdir={directory / 'tmp'}",
            f"--socket={directory / 'sock'}",
            f"--pid-file={directory / 'pid'}",
            f"--log-error={directory / 'server.log'}",
            *([f"--init-file={directory / 'init.sql'}"] if self.data is None else []),
            f"--bind-address={HOST}",
            f"--port={self.port}",
            *SERVER_OPTIONS,
            *user_option(),
            *self.options,
        ]
        self._process = start(command, env=self.env)
        self._wait_until_it_accepts()

    def _wait_until_it_accepts(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        while True:
            if not self.running:
                if "Address already in use" in self.log:
                    raise _PortTaken(f"another program listens on {HOST}:{self.port}")
                raise ServerFailed(f"the private MariaDB server ended while starting; its log:\n{self.log[-3000:]}")
            try:
                if self._answers():
                    return
                raise _PortTaken(f"another server listens on {HOST}:{self.port}")
            except pymysql.err.OperationalError as error:
                if time.monotonic() > deadline:
                    self.kill()
                    raise ServerFailed(
                        f"the private MariaDB server does not accept connections after {self.start_timeout:.0f} s "
                        f"({error}); its log:\n{self.log[-3000:]}"
                    ) from error
            time.sleep(0.02)

    def _answers(self) -> bool:
        """Tell whether who listens on the port is this server, and not one that took the port before it."""
        with (
            pymysql.connect(**self.endpoint.settings(), connect_timeout=2, ssl_disabled=True) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT @@pid_file = %s", (f"{self._directory}/pid",))
            return bool(cursor.fetchone() == (1,))


@contextmanager
def server(*, options: Sequence[str] = ()) -> Iterator[Endpoint]:
    """Give the server that MYSQL_HOST names, or else a private one that lives as long as the `with` block.

    :raises ServerMissing: if MYSQL_HOST is not set, and no MariaDB server program is installed
    :raises ServerFailed: if that server lets nobody in, or the private one does not start
    """
    existing = Endpoint.from_environment()
    if existing is not None:
        try:
            pymysql.connect(**existing.settings(), connect_timeout=10, ssl_disabled=True).close()
        except (pymysql.MySQLError, OSError) as error:
            raise ServerFailed(
                f"the server that MYSQL_HOST and MYSQL_PORT name, {existing.host}:{existing.port}, does not let in "
                f"{existing.user!r} ({error}): start it, mend MYSQL_USER and MYSQL_PASSWORD, or unset MYSQL_HOST to "
                "have a private one"
            ) from error
        yield existing
        return
    with PrivateServer(options=options) as private:
        yield private.endpoint


def find_program(program: str) -> str | None:
    """Find *program* in PATH and where Debian puts servers, which is not in a plain user's PATH."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/usr/local/bin"])
    return shutil.which(program, path=path)


def _find_as_mysqld() -> str | None:
    """Find a MariaDB server under the name it had before 10.4.6; MySQL's server of that name will not do."""
    program = find_program("mysqld")
    if program is None:
        return None
    version = subprocess.run([program, "--no-defaults", "--version"], capture_output=True, text=True, check=False)
    return program if "MariaDB" in version.stdout else None


def user_option() -> tuple[str, ...]:
    """Say to the server that it may run as root, where it does."""
    return ("--user=root",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()


def _temporary_directory() -> Path:
    """Create a directory whose path leaves room for a socket's name."""
    directory = Path(tempfile.mkdtemp(prefix="offload-db-"))
    if len(os.fsencode(directory / "sock")) > LONGEST_SOCKET_PATH:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix="offload-db-", dir="/tmp"))
    return directory


_started: set[PrivateServer] = set()
_owner: int | None = None


def _end_with_this_process(private: PrivateServer) -> None:
    """See to it that *private* is removed when the interpreter exits, or is ended by a signal nobody handles."""
    global _owner
    _started.add(private)
    if _owner == os.getpid():
        return
    _owner = os.getpid()
    atexit.register(_remove_all)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _remove_all_and_die)


def _remove_all() -> None:
    if os.getpid() != _owner:
        return  # a forked child exits: the servers are its parent's
    for private in list(_started):
        private.remove()


def _remove_all_and_die(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would come in the middle of the waiting for the servers' end
    _remove_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a private server until Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.support.mariadb",
        description="Run a private MariaDB server on loopback until Ctrl-C, and print how to reach it.",
    )
    parser.add_argument("--port", type=int, help="the port to listen on (default: a free one)")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="OPTION",
        help="one more server option, as in --option=--sql-mode=ANSI",
    )
    arguments = parser.parse_args(argv)
    # A shell starts what it puts into the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with PrivateServer(port=arguments.port, options=arguments.option) as private:
            for name, value in private.endpoint.environment().items():
                print(f"export {name}={value}")
            print(f"# MariaDB runs (pid {private.pid}) until Ctrl-C", flush=True)
            while private.running:
                time.sleep(0.2)
    except KeyboardInterrupt:
        return 0
    except (ServerMissing, ServerFailed) as error:
        print(f"error: {error}")
        return 1
    print("error: the server ended by itself")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
