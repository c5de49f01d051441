"""Processes that begin with prefdata imported, for tests that need many: each costs no import."""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "prefdata.cli.program", "prefdata.pipeline"])
