"""What a program shows on a terminal of 24 lines and 100 columns."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios


def on_a_terminal(code):
    """Runs Python code there. -> all that it wrote"""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=follower, stdout=follower)
    os.close(follower)
    shown = b""
    while chunk := _read(leader):
        shown += chunk
    os.close(leader)
    assert process.wait(timeout=60) == 0, shown
    return shown.decode()


def _read(leader):
    try:
        return os.read(leader, 4096)
    except OSError:  # how Linux says that the other side is closed
        return b""
