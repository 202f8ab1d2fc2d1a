/** How large a disk the jobs want. */
export const MEBIBYTES = 16

/** Jobs of fio: each writes the whole disk in mixed sizes, reads it back and checks every block's checksum. */
export const fioJobs = (size = `${MEBIBYTES}m`): string => `
[global]
size=${size}
direct=1
ioengine=libaio
verify=crc32c
verify_fatal=1
do_verify=1
randrepeat=0
verify_state_save=0
bssplit=512/20:4k/40:5632/10:64k/15:512k/10:1m/5
stonewall
[sequential-1]
rw=write
iodepth=1
[sequential-128]
rw=write
iodepth=128
[random-1]
rw=randwrite
iodepth=1
[random-16]
rw=randwrite
iodepth=16
[random-128]
rw=randwrite
iodepth=128
`
