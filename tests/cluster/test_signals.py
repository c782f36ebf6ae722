import subprocess
import sys

# What an actor is before it searches: Ray's handler, which ends the process where it stands, and then ours.
SCRIPT = """
import os, signal, sys, threading, time

def end_here(number, frame):
    sys.exit("ended in the middle")

signal.signal(signal.SIGTERM, end_here)
from sfi_ray.cluster.signals import call_on_sigterm
told = threading.Event()
call_on_sigterm(told.set)
for _ in range({times}):
    os.kill(os.getpid(), signal.SIGTERM)
    assert told.wait(30)
    for _ in range(100):
        time.sleep(0.001)
print("committed")
"""


def run(times):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(times=times)], capture_output=True, text=True, check=False
    )


def test_the_first_sigterm_is_told_and_ends_nothing_though_python_runs():
    ended = run(times=1)
    assert (ended.returncode, ended.stdout) == (0, "committed\n"), ended.stderr


def test_the_second_sigterm_goes_to_the_handler_that_was_there():
    ended = run(times=2)
    assert ended.returncode == 1
    assert "ended in the middle" in ended.stderr
