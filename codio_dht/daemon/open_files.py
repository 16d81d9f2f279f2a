"""How many files the daemon may have open: every connection is one.

A program starts with a low *soft* limit (often 1,024, because some programs cannot count higher).
It may raise it up to a *hard* limit. The daemon raises it to what the node's limits need, and no
more. If that is not possible, the node cuts its limits to what is available, and the log says so.
"""

from __future__ import annotations

import resource

from codio_dht.logger import get_logger

log = get_logger(__name__)


def raise_open_files(wanted: int) -> int:
    """Raise the soft limit to ``wanted``, or to the hard limit if that is lower. Return the new
    limit.

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
