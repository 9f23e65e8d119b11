"""`resforward COMMAND`: one file a command, which is imported when it is run."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import warnings
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import ResforwardError, nearest
from .console import INTERRUPTED, CommandError, InterruptError, failure, say, wants_color

COMMANDS = {  # here and not in their files, so that --help imports none of them
    "predict": "Label pictures.",
    "bench": "Time the forward pass.",
    "convert": "Write a checkpoint as an ONNX file, or as a file of ours.",
    "inspect": "Show a network or a checkpoint as a table.",
    "pull": "Download published weights.",
    "doctor": "Say what this machine offers, what was chosen, and why.",
}


class _Commands(click.Group):
    """A group that imports a command when it is run, and ends every error in a line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{cmd_name}", __name__).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            close = nearest(args[0], COMMANDS)
            ctx.fail(f"there is no command {args[0]!r}" + (f"; {close}" if close else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> click.Context:
        return super().make_context(info_name, args, *more, color=wants_color(), **extra)

    def invoke(self, ctx: click.Context) -> int:
        if sys.stdout is None:  # closed before we started
            raise CommandError(ResforwardError("stdout is closed, and answers go there"))
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a label in any encoding
        try:
            code = super().invoke(ctx)
            click.echo(nl=False)  # flushes
        except ResforwardError as error:
            raise failure(error, ctx) from error
        except KeyboardInterrupt as error:
            raise InterruptError from error
        except MemoryError as error:
            raise failure(
                ResforwardError("out of memory", help="fewer or smaller images at once need less"), ctx
            ) from error
        return int(code or 0)

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        extra["standalone_mode"] = False  # errors come here; the result is the exit code
        try:
            code = super().main(*args, **extra)
        except CommandError as failed:
            failed.show()
            code = failed.code
        except (InterruptError, click.Abort):
            say("interrupted")
            code = INTERRUPTED
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except OSError as error:
            code = 1
            _leave_stdout()
            if error.errno != errno.EPIPE:  # nobody reads any more: `| head`
                reason = (error.strerror or str(error)).lower()
                if _of_output(error):
                    reason = f"cannot write: {reason}"
                elif error.filename is not None:
                    reason = f"{reason}: {os.fsdecode(error.filename)[:200]}"
                CommandError(ResforwardError(reason)).show()
        sys.exit(code)


def _of_output(error: OSError) -> bool:
    """Whether it came from `click.echo`, through which everything is written: answers, --help, --version."""
    import traceback

    return any(frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


def _leave_stdout() -> None:
    """Let what is left in stdout's buffer go nowhere, or the interpreter would fail on it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


_EPILOG = """\b
Exit codes: 0 fine, 1 error, 2 usage, 3 some pictures failed, 4 checkpoint refused, 130 interrupted.
Completion, for bash, zsh or fish: eval "$(_RESFORWARD_COMPLETE=bash_source resforward)"
"""


@click.group(
    cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="resforward", message="%(prog)s %(version)s")
def main() -> None:
    """ResNet inference without TensorFlow, Keras or PyTorch.

    \b
    resforward predict cat.png             what is on it
    resforward inspect resnet_v2_152       the network as its table of Blocks
    resforward bench resnet_v2_50          seconds a batch, images a second
    """
    # What Pillow finds odd about a picture either makes it unreadable, which is said, or is not the reader's concern.
    warnings.filterwarnings("ignore", module="PIL")
