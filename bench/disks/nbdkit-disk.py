# nbdkit's Python plugin serving a disk in memory: what the benchmark compares with.

import nbdkit

API_VERSION = 2
disk = None


def config(key, value):
    global disk
    if key != "size":
        raise RuntimeError("unknown parameter " + key)
    disk = memoryview(bytearray(int(value)))


def open(readonly):
    return disk


def get_size(disk):
    return len(disk)


def pread(disk, buf, offset, flags):
    buf[:] = disk[offset : offset + len(buf)]


def pwrite(disk, buf, offset, flags):
    disk[offset : offset + len(buf)] = buf
