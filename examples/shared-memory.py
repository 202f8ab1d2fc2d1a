#!/usr/bin/env python3
"""Copies a file to a disk that shares memory with its clients, and checks what it reads back.

    sudo fallocate -l 4M /dev/shm/pool
    sudo npx ublk-ts create --mem 64M --share /dev/shm/pool     # prints /dev/ublkb0
    sudo ./shared-memory.py /dev/shm/pool /dev/ublkb0 some-file

What goes between the disk and the mapping, by direct I/O, is copied by nobody but the disk's backend. All that a client
has to do is map the same file, and read and write there.
"""
import mmap
import os
import sys

pool_path, disk_path, source_path = sys.argv[1:]
with open(pool_path, "r+b") as pool_file:
    pool = mmap.mmap(pool_file.fileno(), 0)  # shared, and as long as the file
disk = os.open(disk_path, os.O_RDWR | os.O_DIRECT)
half = len(pool) // 2
out, back = memoryview(pool)[:half], memoryview(pool)[half:]

with open(source_path, "rb") as source:
    offset = 0
    while count := source.readinto(out):
        whole = -(-count // 4096) * 4096  # direct I/O is done in blocks
        os.pwritev(disk, [out[:whole]], offset)
        os.preadv(disk, [back[:whole]], offset)
        if out[:count] != back[:count]:
            sys.exit(f"the disk returned other bytes at {offset}")
        offset += count
print(f"{offset} bytes")
