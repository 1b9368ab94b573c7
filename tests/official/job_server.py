"""Runs official_job.py for each line of standard input, a JSON list `[REPORT, URL, PARTS…]`, and
prints `REPORT STATUS` when it has ended. What the job says goes to the file REPORT.

Each job has a process of its own, forked from this one, which has imported the SDK and torch: that
takes as long as the job itself.
"""

import json
import os
import select
import sys
import traceback

import official_job
from ending import end

_LOOK = 0.05  # seconds, after which it looks for jobs that have ended


def main():
    reports = {}  # by process
    for line in lines():
        if line is not None:
            report, *arguments = json.loads(line)
            reports[begin(report, arguments)] = report
        for pid in list(reports):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                say = f"{reports.pop(pid)} {os.waitstatus_to_exitcode(status)}\n"
                os.write(1, say.encode())


def lines():
    """Yields the lines of standard input, and None from time to time, until its end."""
    received = b""
    while True:
        if select.select([0], [], [], _LOOK)[0]:
            read = os.read(0, 1 << 16)
            if not read:
                return
            *whole, received = (received + read).split(b"\n")
            yield from whole
        yield None


def begin(report, arguments):
    """Starts a job, and returns its process."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        out = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for descriptor in (1, 2):
            os.dup2(out, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv[1:] = arguments
        official_job.WITHOUT = frozenset(arguments[1:])
        official_job.main()
        status = 0
    except BaseException:  # noqa: BLE001  the child of a fork must not return to the loop of its parent
        traceback.print_exc()
    finally:
        end(status)


if __name__ == "__main__":
    main()
