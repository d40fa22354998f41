"""Bars of time, for the machines that tests run on.

A figure of time says something on an idle machine alone: EVERPORT_TIMED_TESTS=1 holds it to its bar. Elsewhere a
machine that is busy with other things, or a VM whose CPUs are not run for a while, must not fail a test: there a bar
is ten times as high, which something that waits for a timer it should not need still exceeds.
"""

import os


def bar(amount):
    return amount if os.environ.get("EVERPORT_TIMED_TESTS") else 10 * amount
