"""How every command ends: the one place where an error becomes a line on stderr and an exit code."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import sys
from collections.abc import Sequence

import click

from busworker import logs, settings
from busworker.errors import (
    AlreadyRunning,
    ApplicationError,
    BrokerUnavailable,
    BusworkerError,
    ConfigurationError,
    ControlError,
    MessageError,
    NothingMatches,
    PublishFailed,
    TopologyMismatch,
)
from busworker.ipc.control import Refused
from busworker.plain import escaped, told
from busworker.uninterrupted import interrupt
from busworker.urls import hide_password, shown

log = logging.getLogger("busworker.cli")

STDOUT = 1
PATIENCE = 1.0
"""Seconds that a command which a signal has ended waits for whoever reads its output."""
DONE, UNEXPECTED, USAGE, CUT_SHORT = 0, 1, 2, 75
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SIGNALLED = 128
"""A shell reports a process that a signal ended by this plus its number: 130 for SIGINT, 143 for SIGTERM."""

EXIT_CODES: tuple[tuple[type[BusworkerError], int], ...] = (
    (MessageError, 65),
    (NothingMatches, 66),
    (BrokerUnavailable, 69),
    (PublishFailed, 69),
    (ControlError, 69),
    (AlreadyRunning, 73),
    (ConfigurationError, 78),
    (ApplicationError, 78),
    (TopologyMismatch, 78),
)


class Told(KeyboardInterrupt):
    """A signal ends the command; its number."""


class CutShort(BusworkerError):
    """What was asked for didn't come to its end in time (exit 75)."""


def exit_code(error: BusworkerError) -> int:
    """The exit code of an error."""
    match error:
        case Refused():
            return error.exit_code
        case CutShort():
            return CUT_SHORT
        case PublishFailed(__cause__=BusworkerError() as cause):
            return exit_code(cause)
        case _:
            return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), UNEXPECTED)


def run(args: Sequence[str] | None) -> int:
    """Runs a command.

    Returns:
        Its exit code; whatever went wrong is told in one line on stderr.
    """
    if args is None:
        _hide_arguments(sys.argv[1:])
    _log_early()
    try:
        code = _ended(args)
        if code > SIGNALLED and not _is_read():
            _discard_output()
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return SIGNALLED + signal.SIGPIPE
    except OSError as error:
        _discard_output()
        complain(f"the output can't be written: {os.strerror(error.errno or 0)}; it isn't whole")
        return UNEXPECTED
    return code


def _is_read() -> bool:
    """Whether somebody takes our output, so that a write doesn't wait."""
    poll = select.poll()
    poll.register(STDOUT, select.POLLOUT)
    return bool(poll.poll(PATIENCE * 1000))


def _discard_output() -> None:
    """What is still buffered must not fail again at exit, or wait there: nobody reads it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


def end_orderly() -> None:
    """From now on TERM, and HUP of a terminal that is closed, end the command as Ctrl-C does: by an exception.

    Where a session says so (`uninterrupted`) it comes a little later.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # nohup has the last one ignored
            signal.signal(number, _end)


def _end(number: int, _: object) -> None:
    interrupt(Told(number))


def _hide_arguments(arguments: list[str]) -> None:
    """Hides the password of `--broker URL` from `ps`, which shows all users what a process was started with."""
    hidden = [shown(argument) for argument in arguments]
    if hidden != arguments:
        import setproctitle  # its import costs most commands more than they take

        setproctitle.setproctitle(" ".join(["busworker", *hidden]))


def _log_early() -> None:
    """Warnings, or what BUSWORKER_LOG_LEVEL says; `start` sets its logs up again by all its settings."""
    level = os.environ.get(settings.LOG_LEVEL.variable, "").lower()
    logs.setup(level if level in settings.LEVELS else "warning", "text", "busworker")


def _ended(args: Sequence[str] | None) -> int:
    from busworker.cli.commands import busworker  # a cycle: commands end here

    try:
        result: object = busworker.main(args=args, prog_name="busworker", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        complain(_usage(error))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        return _signalled(error)
    except BusworkerError as error:
        log.debug("the command failed", exc_info=error)
        complain(str(error))
        return exit_code(error)
    except SystemExit as leaving:
        if leaving.code != 1:
            raise
        return SIGNALLED + signal.SIGPIPE  # only on a broken pipe does click leave so when it isn't standalone
    except BrokenPipeError:
        raise
    except Exception as error:  # the last words of this process
        if isinstance(error, OSError) and error.errno in FULL:
            raise  # stores tell it in their own words, and nothing else is written but our output
        complain(_unexpected(error))
        return UNEXPECTED
    return result if isinstance(result, int) else DONE


def _signalled(error: BaseException) -> int:
    told = error.__context__ if isinstance(error, click.Abort) else error  # which click raises instead
    return SIGNALLED + (told.args[0] if isinstance(told, Told) else signal.SIGINT)


def complain(text: str) -> None:
    """One line on stderr: without passwords, control characters escaped."""
    click.echo(f"busworker: {escaped(hide_password(' '.join(text.split())))}", err=True)


def _usage(error: click.ClickException) -> str:
    message = error.format_message()
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return message
    see = " See" if message.endswith("?") else ": see"
    return f"{message.rstrip('.')}{see} '{context.command_path} --help'"


def _unexpected(error: Exception) -> str:
    log.debug("the command failed", exc_info=error)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    return f"unexpected {told(error)}{place}: please report it with what BUSWORKER_LOG_LEVEL=debug shows"
