"""A terminal on the host for a shell in the VM."""

import contextlib
import os
import select
import sys
import termios
import tty


@contextlib.contextmanager
def _raw(descriptor):
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def size():
    try:
        return os.get_terminal_size(sys.stdin.fileno())
    except OSError:
        return os.terminal_size((80, 24))


def connect(console, ended):
    """Copies between this terminal and the socket until the file descriptor `ended` can be read."""
    keyboard = sys.stdin.fileno()
    inputs = [keyboard, console, ended]
    with _raw(keyboard):
        while True:
            ready = select.select(inputs, [], [])[0]
            if console in ready:
                os.write(sys.stdout.fileno(), console.recv(65536))
            elif ended in ready:
                return
            if keyboard in ready:
                if data := os.read(keyboard, 65536):
                    console.sendall(data)
                else:
                    inputs.remove(keyboard)
                    console.sendall(b"exit\n")
