"""What state the session of one physical connection is in.

Owns what a statement leaves behind on it, what an error says of it, and whether it can be used again, and by somebody
else. The calls themselves are made in ``physical.py``.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Any

from pymysql.constants import CR

from ..drivers.base import Driver, Identity
from ..drivers.only_reads import only_reads
from ..drivers.pymysql_connection import OUT_OF_STEP
from ..drivers.server_errors import IDLE_TOO_LONG
from ..drivers.sql_text import UNSEEN, Trace, Traces
from ..errors import ConnectionClosed, ConnectionLost, OffloadError, ThreadUnavailable

# Calls that read what an earlier one has asked for.
_READ_ONLY = frozenset({"close", "fetch", "nextset"})

# Seconds that the server may take to say what has become of a commit.
ASK_TIMEOUT = 2.0


class SessionState:
    """What state the session of a physical connection is in.

    :param raw: the driver's own connection
    :param identity: what its session is called in the server, None if that is not known
    """

    __slots__ = (
        "_absorb",
        "_begun",
        "_doubtful",
        "_text",
        "_unshown",
        "altered",
        "autocommit",
        "driver",
        "ended_by_kill",
        "fault",
        "half_done",
        "identity",
        "locked",
        "moved",
        "raw",
        "writes_on",
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
        """Whether attributes of the driver's connection were set, or what else only its end undoes was done."""
        self.writes_on = False
        """Whether the server may still write for the last statement, whose answer was not read to its end."""
        self.ended_by_kill = False
        """Whether a kill has ended the last statement for certain: nothing more of it comes, read or unread."""
        self.half_done: object = None
        """The bridged call that was cancelled in the middle of its transaction; undone before another call goes on."""
        self._doubtful = False
        self._begun = False
        self._unshown = False
        self._absorb = False
        self._text: object = None  # the statement that was sent last, None where that is not known

    def unseen(self) -> None:
        """Note that code may change the session from now on whose statements are not seen."""
        self._doubtful = True
        self._text = None
        self.ended_by_kill = False
        self.note(UNSEEN)

    def note(self, left: Traces) -> None:
        """Note what a statement will leave behind, if that is anything."""
        self._begun = True
        if not self.driver.is_mysqls:
            return
        self._unshown = self._unshown or Trace.UNSHOWN in left
        self.locked = self.locked or Trace.LOCKS in left
        self.altered = self.altered or Trace.SESSION in left
        if Trace.DATABASE in left and self.driver.home(self.raw):  # or there is none to go back to
            self.moved = True

    def prepare(self, name: str) -> None:
        """Get the session ready for a call, on the thread of that call.

        :raises ConnectionLost: if it would take bytes for its answer that are another's
        """
        self._doubtful = True
        if name in _READ_ONLY:
            return
        if self.driver.out_of_step(self.raw):
            raise self._step_lost()
        if self._absorb:
            self.absorb()

    def _step_lost(self) -> OffloadError:
        """Close the link: the next statement would take bytes for its answer that are another's."""
        self.fault = "lost"
        self.driver.abandon(self.raw)
        lost = ConnectionLost(CR.CR_SERVER_GONE_ERROR, OUT_OF_STEP)
        lost.may_have_run = False
        return self.driver.disguised(lost)

    def killed(self) -> None:
        """Note that a kill was sent: it may arrive after its statement has ended, and stop the next one."""
        if self.identity is not None and not self.identity.by_query:
            self._absorb = True

    def statement_killed(self) -> None:
        """Note that the statement that was sent last was killed; for who made its call, before another is made."""
        self.killed()
        self.ended_by_kill = not self._absorb

    def absorb(self) -> None:
        """Run a statement for a kill that may arrive late to stop, so that it stops nothing else."""
        if self._absorb:
            # MySQL sends the rows that are ready before it says that the statement was killed.
            if self.driver.unread(self.raw):
                self.driver.skip_killed(self.raw)
            self.driver.absorb(self.raw)
            self._absorb = False

    def classify_error(self, error: BaseException, name: str) -> OffloadError | None:
        """Note what an error says of the link; returns the one to raise in its place, None to let it pass."""
        driver = self.driver
        if isinstance(error, ConnectionLost):  # by what is known here: nothing was sent
            return None
        if driver.unfit(error):
            self.fault = "unfit_server"
        if name == "commit":
            self._classify_commit(error)
        if driver.in_step(error) or driver.refused(self.raw, error):
            # An error says nothing of the transaction that a procedure, say, had begun before it.
            self._unshown = self._unshown or self._begun
            return None
        if driver.lost(error):
            self.fault = self.fault or "lost"  # it may have been closed under the call, which is why that came back
            # Of the statements that one executemany() sends, those before the one that failed have run.
            sent, outcome = True, "the server may or may not have executed it"
            if name != "executemany" and driver.code(error) == IDLE_TOO_LONG:
                sent, outcome = False, "it did not run: the server had closed the connection before"
            elif name != "executemany" and not driver.may_have_sent(error):
                sent, outcome = False, "it was not sent whole and did not run"
            code, *texts = error.args
            lost = ConnectionLost(code, f"{texts[0] if texts else ''}; the statement was not repeated, and {outcome}")
            lost.may_have_run = sent
            return self.driver.disguised(lost)
        # Packets may be left that the next statement would take for its own answer.
        self.fault = "driver_error" if driver.is_open(self.raw) else "lost"
        driver.abandon(self.raw)
        return None

    def _classify_commit(self, error: BaseException) -> None:
        """Note in the error of a commit if it is certain that nothing was committed."""
        with suppress(Exception), self.driver.limited(self.raw, ASK_TIMEOUT):
            if self.driver.rolled_back(self.raw, error):
                vars(error)["may_have_run"] = False

    def begun(self) -> None:
        """Note that a transaction may be open from now on, also if no statement that is seen begins one."""
        self._doubtful = self._begun = True
        self._text = None

    def transaction_ended(self) -> None:
        """Note that the transaction was ended, so that nothing is open."""
        self._doubtful = self._begun = self._unshown = False
        self.half_done = None

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
        """Whether the connection can be given to somebody else without a rollback or any other repair."""
        if self.moved or self.locked or self._unshown or self._absorb:
            return False
        if self.driver.autocommit(self.raw) != self.autocommit:
            return False
        # Not every driver shows what the server says of transactions; with autocommit on, the statements tell as much.
        alone = self.autocommit is True and not self._begun
        return alone or not self._doubtful or self.driver.clean(self.raw)

    @property
    def may_write(self) -> bool:
        """Whether the last statement may write, as far as its text tells."""
        return not only_reads(self._text)

    def undo(self) -> None:
        """Note that the last statement will be rolled back, so that nobody waits for what it still does."""
        self._text = "SELECT"

    def discard_reason(self) -> str | None:
        """Return why the link cannot be used again, None if it can; sets :attr:`writes_on` as well."""
        self.writes_on = False
        if self.fault in (None, "altered", "unfit_server"):
            if not self.driver.is_open(self.raw):
                self.fault = self.fault or "lost"
            elif self.driver.unread(self.raw):
                self.writes_on = self.may_write
                if not self.writes_on:
                    self.fault = self.fault or "abandoned_result"
            else:
                self._text = None  # it may be long, and the link may rest for long
                if self.altered:
                    self.fault = self.fault or "altered"
        return self.fault

    def restore(self) -> None:
        """Roll back what is open and put the session back as it was, on the thread of the call.

        :raises Exception: if it could not be done
        """
        raw = self.raw
        if self.driver.out_of_step(raw):
            raise self._step_lost()
        self.absorb()
        raw.rollback()
        if self.autocommit is not None and self.driver.autocommit(raw) != self.autocommit:
            raw.autocommit(self.autocommit)
        if self.locked:
            with closing(raw.cursor()) as cursor:  # after the rollback: it commits what is open
                cursor.execute("UNLOCK TABLES")
        if self.moved:
            # Of a connection without a database this fails, and the link is thrown out.
            self.driver.select_database(raw, self.driver.home(raw))
        self.moved = self.locked = False
        self.transaction_ended()

    def answers(self, seconds: float, *, fit: bool = False) -> bool:
        """Ask the server for a sign of life; waits that long at most.

        :param fit: whether it is to be one that takes writes, too, and that its cluster has
        """
        try:
            with self.driver.limited(self.raw, seconds):
                if fit and not self.driver.is_fit(self.raw):
                    return False
                if not fit:
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
