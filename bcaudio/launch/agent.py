"""One node's share of a job: torchrun, with a way out for preempted ranks.

    python -m bcaudio.launch.agent [--preempted-code N] TORCHRUN_OPTIONS -m bcaudio train RECIPE ...

torchrun itself kills its ranks 30 s after SIGTERM, dies of SIGUSR1, and makes exit code 1 of whatever a rank returns.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import psutil
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from bcaudio.launch.job import PREEMPTED

# SIGTERM is not among them: it means "save, then leave".
TORCHRUN_SIGNALS = "SIGINT,SIGHUP,SIGQUIT"
# Ranks left over when one has gone may still be writing a record.
SHUTDOWN_S = "60"


def main(argv: Sequence[str] | None = None) -> int:
    """Run this node's ranks; SIGTERM and SIGUSR1 reach them as SIGUSR1, and the agent waits for them.

    Returns:
        0; the code of preempted ranks (75, or what `--preempted-code` says, for those who restart on certain codes only), also
        when they were told to go before they could listen; else the code of the rank that failed first, 128 + N for signal N.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    preempted_code = PREEMPTED
    if arguments[:1] == ["--preempted-code"]:
        preempted_code, arguments = int(arguments[1]), arguments[2:]
    told = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = True
        ranks = psutil.Process().children()
        if not ranks and resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss == 0:
            raise SystemExit(preempted_code)  # no rank was ever started, the nodes are still meeting: nothing to save
        for rank in ranks:
            rank.send_signal(signal.SIGUSR1)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, pass_on)
    options = ["--signals-to-handle", TORCHRUN_SIGNALS, "--shutdown-timeout", SHUTDOWN_S]
    try:
        run.run(run.parse_args([*options, *arguments]))
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code == PREEMPTED or (told and code == -signal.SIGUSR1):
            return preempted_code
        print(error, file=sys.stderr)
        return code if code > 0 else 128 - code
    finally:
        for number in (signal.SIGTERM, signal.SIGUSR1):  # what comes now must not change the exit code
            signal.signal(number, signal.SIG_IGN)
    return 0


if __name__ == "__main__":
    sys.exit(main())
