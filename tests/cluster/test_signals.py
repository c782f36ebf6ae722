import signal
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


# What a launch is before Ray: a block around everything, and one around the search in it.
BLOCKS = """
import os, signal, sys
from sfi_ray.cluster.signals import calling_on_signals, ending_on_signals, interrupt

def send(*names):
    for name in names:
        os.kill(os.getpid(), getattr(signal, name))

try:
    with ending_on_signals():
        with calling_on_signals(lambda: print("asked")):
            send({during})
        print("between")
        send({after})
except KeyboardInterrupt:
    print("stopped at once")
send({late})
print("ended")
"""


def blocks(during="", after="", late=""):
    script = BLOCKS.format(during=during, after=after, late=late)
    # Unbuffered: a signal that ends it must not take along what it printed.
    done = subprocess.run([sys.executable, "-u", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.split("\n")[:-1]


TERM, INT = "'SIGTERM',", "'SIGINT',"


def test_sigterm_again_and_again_ends_as_once_until_the_process_is_gone():
    once = (0, ["asked", "between", "ended"])
    assert blocks(during=TERM) == once
    assert blocks(during=TERM * 3, after=TERM * 2, late=TERM) == once


def test_a_second_ctrl_c_stops_at_once_and_so_does_one_after_sigterm():
    at_once = (0, ["asked", "stopped at once", "ended"])
    assert blocks(during=INT * 2) == at_once
    assert blocks(during=TERM + INT) == at_once


def test_every_block_has_its_own_first_ctrl_c():
    assert blocks(during=INT, after=INT) == (0, ["asked", "between", "stopped at once", "ended"])


def test_sigterm_outside_of_a_search_ends_as_ctrl_c_does():
    assert blocks(after=TERM, late=TERM) == (0, ["between", "stopped at once", "ended"])


def test_what_was_there_before_hears_again_after_the_block():
    assert blocks(late=TERM) == (-signal.SIGTERM, ["between"])


def test_a_program_that_launches_again_after_sigterm_is_asked_again():
    twice = """
for _ in range(2):
    with calling_on_signals(lambda: print("asked")):
        send("SIGTERM", "SIGTERM")
"""
    script = BLOCKS.partition("try:")[0] + twice
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "asked\nasked\n"
