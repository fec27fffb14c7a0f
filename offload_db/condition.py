"""What is known of one physical connection.

Owns what a statement leaves behind on it, what an error says of it, and whether it can be used again, and by somebody
else. The calls themselves are made in ``statements.py``.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from .digests import leaves_behind, stands_alone
from .drivers import Driver, Identity
from .errors import ConnectionClosed, ConnectionLost, OffloadError, ThreadUnavailable


class Condition:
    """The condition that a physical connection is in.

    :param raw: the driver's own connection
    :param identity: what its session is called in the server, None if that is not known
    """

    __slots__ = (
        "_absorb",
        "_begun",
        "_doubtful",
        "altered",
        "autocommit",
        "driver",
        "fault",
        "identity",
        "locked",
        "moved",
        "raw",
    )

    def __init__(self, raw: Any, driver: Driver, identity: Identity | None) -> None:
        self.raw = raw
        self.driver = driver
        self.identity = identity
        self.fault: str | None = None
        """Why the link must not be used again, once it is known."""
        self.autocommit = driver.autocommit(raw)
        self.moved = False
        """Whether another database than the connection's own was selected."""
        self.locked = False
        """Whether tables were locked."""
        self.altered = False
        """Whether attributes of the driver's connection were set."""
        self._doubtful = False
        self._begun = False
        self._absorb = False

    def foresee(self, text: object) -> None:
        """Note what a statement will leave behind."""
        if stands_alone(text):
            return
        self._begun = True
        left = leaves_behind(text)
        if left == "locks":
            self.locked = True
        elif left == "database" and getattr(self.raw, "db", None):  # or there is none to go back to
            self.moved = True

    def prepare(self) -> None:
        """Get ready for a call, on its worker."""
        self._doubtful = True
        self.absorb()

    def killed(self) -> None:
        """Note that a kill was sent, which may come when the statement is over and meet the next one."""
        if self.identity is not None and not self.identity.by_query:
            self._absorb = True

    def absorb(self) -> None:
        """Let a kill that may come late come now, on a worker, so that it meets nothing else."""
        if self._absorb:
            self.driver.absorb(self.raw)
            self._absorb = False

    def judge(self, error: BaseException, name: str) -> OffloadError | None:
        """Note what an error says of the link; returns the one to raise in its place, None to let it pass."""
        driver = self.driver
        if driver.unfit(error):
            self.fault = "unfit_server"
        if driver.in_step(error):
            return None
        if driver.lost(error):
            self.fault = self.fault or "lost"  # it may have been given up, which is why the call came back
            # Of the statements that one executemany() sends, those before the one that failed have run.
            sent = driver.may_have_sent(error) or name == "executemany"
            outcome = "the server may or may not have executed it" if sent else "it was not sent whole and did not run"
            code, *texts = error.args
            lost = ConnectionLost(code, f"{texts[0] if texts else ''}; the statement was not repeated, and {outcome}")
            lost.may_have_run = sent
            return self.driver.disguised(lost)
        # Packets may be left that the next statement would take for its own answer.
        self.fault = "driver_error" if driver.is_open(self.raw) else "lost"
        driver.abandon(self.raw)
        return None

    def begun(self) -> None:
        """Note that a transaction may be open from now on, whatever the statements say."""
        self._doubtful = self._begun = True

    def settled(self) -> None:
        """Note that the transaction was ended, so that nothing is open."""
        self._doubtful = self._begun = False

    def check(self) -> None:
        """Raise :class:`ConnectionClosed` if nothing can be sent over the link any more."""
        if self.fault in ("lost", "driver_error", "closed") and not self.driver.is_open(self.raw):
            raise ConnectionClosed.because(
                "the link to the server was given up after an earlier error; close this connection and take a new one"
            )

    def reconnected(self) -> None:
        """Note that the driver has made a new link of its own."""
        if self.fault == "lost" and self.driver.is_open(self.raw):
            self.fault = None

    @property
    def clean(self) -> bool:
        """Whether it is certain that giving the link to somebody else needs no rollback and no other repair."""
        if self.moved or self.locked or self._absorb or self.driver.autocommit(self.raw) != self.autocommit:
            return False
        # Not every driver shows what the server says of transactions; with autocommit on, the statements tell as much.
        alone = self.autocommit is True and not self._begun
        return alone or not self._doubtful or self.driver.clean(self.raw)

    def verdict(self) -> str | None:
        """Return why the link cannot be used again, None if it can."""
        if self.fault is None:
            if not self.driver.is_open(self.raw):
                self.fault = "lost"
            elif self.driver.unread(self.raw):
                self.fault = "abandoned_result"
            elif self.altered:
                self.fault = "altered"
        return self.fault

    def restore(self) -> None:
        """Roll back what is open and put the session back as it was, on a worker.

        :raises Exception: if it could not be done
        """
        raw = self.raw
        self.absorb()
        raw.rollback()
        if self.autocommit is not None and self.driver.autocommit(raw) != self.autocommit:
            raw.autocommit(self.autocommit)
        if self.locked:
            with closing(raw.cursor()) as cursor:  # after the rollback: it commits what is open
                cursor.execute("UNLOCK TABLES")
        if self.moved:
            raw.select_db(raw.db)  # of a connection without a database this fails, and the link is thrown out
        self.moved = self.locked = self._doubtful = self._begun = False

    def answers(self, seconds: float) -> bool:
        """Ask the server for a sign of life; waits that long at most."""
        try:
            with self.driver.limited(self.raw, seconds):
                self.driver.ping(self.raw)
        except ThreadUnavailable:  # nothing was asked
            raise
        except Exception:
            return False
        return self.driver.alive_at_rest(self.raw)  # it may have been cut in the last moment

    def close(self) -> None:
        """Close the link for good; waits for the server at most to take a goodbye."""
        if self.fault is None:
            self.driver.close(self.raw)
        else:
            self.driver.abandon(self.raw)
