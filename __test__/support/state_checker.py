"""Checks disks of states after a power cut, and prints for each the number of what is there, or what is wrong.

Its arguments: the directory to mount them on, the file system, its mount options, and what to look for there. Each line that it
reads is the path of a disk; for each it prints a line. One process for all of them, since starting programs is what takes most
of the time of a check.
"""

import ctypes
import errno
import os
import pwd
import re
import sqlite3
import subprocess
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)


def call(function, *args):
    if function(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function.__name__}: {os.strerror(number)}")


def unmount(directory):
    """As umount(8), but for a moment in which somebody else looks at what is mounted."""
    until = time.monotonic() + 10
    while True:
        try:
            return call(libc.umount, directory.encode())
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


def files(size):
    """File n, counted from 1, has `size` bytes: the number n, with zeroes before it."""

    def look(directory):
        n = 1
        while True:
            try:
                with open(f"{directory}/file{n}", "rb") as file:
                    if file.read() != b"%0*d" % (int(size), n):
                        return n - 1
            except FileNotFoundError:
                return n - 1
            n += 1

    return look


def sqlite():
    def look(directory):
        db = sqlite3.connect(f"{directory}/db")
        try:
            check = db.execute("PRAGMA integrity_check").fetchall()
            if check != [("ok",)]:
                raise ValueError(f"integrity_check: {check}")
            count, last = db.execute("SELECT count(*), coalesce(max(n), 0) FROM t").fetchone()
        finally:
            db.close()
        if count != last:
            raise ValueError(f"{count} rows, and the last is {last}")
        return count

    return look


def postgresql(bin):
    """The server in single-user mode: it recovers, answers, and ends. amcheck compares each index with its table."""
    user = pwd.getpwnam("postgres")
    ask = """SELECT count(*), coalesce(max(number), 0) AS last, count(*) FILTER (WHERE note = repeat(md5(number::text), 40)) AS whole FROM payment
SELECT count(bt_index_check(c.oid, true)) AS indexes FROM pg_class c WHERE c.relkind = 'i' AND c.relam = 403
SELECT count(*) AS damages, min(v.msg) AS damage FROM pg_class c, verify_heapam(c.oid) v WHERE c.relkind IN ('r', 't')
"""
    # What it recovers is thrown away: it need not be durable.
    settings = ["-c", "exit_on_error=on", "-c", "fsync=off"]
    value = re.compile(r'^\t +\d+: (\w+) = "(.*)"\t\(typeid', re.M)

    def look(directory):
        server = subprocess.run(
            [f"{bin}/postgres", "--single", "-D", f"{directory}/data", *settings, "postgres"],
            input=ask, capture_output=True, text=True, cwd="/", user=user.pw_uid, group=user.pw_gid, extra_groups=[],
        )
        said = dict(value.findall(server.stdout))
        complete = server.returncode == 0 and int(said.get("indexes", 0)) > 100 and said.get("damages") == "0"
        if not complete or not said["count"] == said["last"] == said["whole"]:
            raise ValueError(f"status {server.returncode}, {said}: {server.stderr}")
        return int(said["count"])

    return look


CHECKS = {
    "ext4": ["e2fsck", "-fn"],
    "xfs": ["xfs_repair", "-n"],
}


def check(disk, directory, system, options, look):
    call(libc.mount, disk.encode(), directory.encode(), system.encode(), 0, options.encode())
    try:
        found = look(directory)
    finally:
        unmount(directory)
    fsck = subprocess.run([*CHECKS[system], disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if fsck.returncode != 0:
        raise ValueError(f"{found}, and {CHECKS[system][0]}: {fsck.stdout}")
    return found


def main(directory, system, options, what, *settings):
    look = {"files": files, "sqlite": sqlite, "postgresql": postgresql}[what](*settings)
    for line in sys.stdin:
        try:
            answer = str(check(line.strip(), directory, system, options, look))
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        print(" ".join(answer.split()), flush=True)


main(*sys.argv[1:])
