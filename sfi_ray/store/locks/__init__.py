"""The lock on a run's folder: one launch at a time holds it.

On a disk it is a lock of the operating system, which ends with its process. On an object store it is an object that its
holder renews. Every change of it is a conditional write (``If-None-Match``, ``If-Match``), so of several launches one
gets it. A launch that finds it held watches it. A renewal means that the holder lives; a long silence means that it is
gone, and the lock is taken over. Nothing compares the clocks of two machines.

Each holder of such a lock has an epoch, larger than that of the holder before. Whoever writes for it looks at the lock
every few seconds, and stops writing once the epoch is another one. A new holder waits that long before it begins.
"""
