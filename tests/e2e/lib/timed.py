"""Bars of time, for the machines that tests run on.

A figure of time says something on an idle machine alone: EVERPORT_TIMED_TESTS=1 holds it to its bar. Elsewhere a
machine that is busy with other things, or a VM whose CPUs are not run for a while, must not fail a test: there a bar
is ten times as high, which something that waits for a timer it should not need still exceeds. A ratio to a peer, of
few samples, is worth nothing there: beside_peer is then not asked for at all.
"""

import math
import os


def timed():
    return bool(os.environ.get("EVERPORT_TIMED_TESTS"))


def bar(amount):
    return amount if timed() else 10 * amount


def beside_peer(ratio):
    return ratio if timed() else math.inf
