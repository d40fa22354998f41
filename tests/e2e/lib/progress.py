"""The same progress lines as tests/setup/progress.sh."""

import contextlib
import sys
import threading
import time


@contextlib.contextmanager
def step(what):
    start = time.monotonic()
    done = threading.Event()

    def show():
        while not done.wait(0.5):
            print(f"\r  {what:<60} {time.monotonic() - start:4.0f} s", end="", file=sys.stderr, flush=True)

    ticker = threading.Thread(target=show, daemon=True)
    if sys.stderr.isatty():
        ticker.start()
    else:
        print(f"  {what:<60} ", end="", file=sys.stderr, flush=True)
    outcome = "  failed"
    try:
        yield
        outcome = ""
    finally:
        done.set()
        if ticker.ident:
            ticker.join()
        begin = f"\r  {what:<60} " if sys.stderr.isatty() else ""
        print(f"{begin}{time.monotonic() - start:4.0f} s{outcome}", file=sys.stderr, flush=True)
