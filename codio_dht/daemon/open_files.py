"""How many files the daemon may have open: every connection is one.

Systems start programs with a low *soft* limit (often 1,024, for what cannot count higher) under a
*hard* one that the program may claim. Decides to claim what the node's limits need, and no more.
It is no fault where that cannot be had: the node cuts its limits to what there is, and the log
says so.
"""

from __future__ import annotations

import resource

from codio_dht.logger import get_logger

log = get_logger(__name__)


def raise_open_files(wanted: int) -> int:
    """Raise the soft limit to ``wanted``, or to the hard one if that is lower; what it is now.

    Never lowers it.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    now = before
    if before != resource.RLIM_INFINITY and before < reachable:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
            now = reachable
        except (OSError, ValueError) as error:  # another bound of the system's
            log.warning("open_files_not_raised", wanted=reachable, error=str(error))
    enough = now == resource.RLIM_INFINITY or now >= wanted
    if enough:
        log.info("open_files", limit=now, before=before)
    else:
        hint = "the node will have fewer connections; `ulimit -Hn` shows the hard limit"
        log.warning("open_files", limit=now, before=before, wanted=wanted, hint=hint)
    return now
