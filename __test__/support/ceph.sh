#!/bin/bash
# usage: ceph.sh DIR
#
# A Ceph cluster of one monitor and one OSD, with its data in memory, and in it the image rbd/disk. Says "ready"; ends with its
# standard input.
set -e
cd "$1"
fsid=$(cat /proc/sys/kernel/random/uuid) osd=$(cat /proc/sys/kernel/random/uuid)
mkdir -p mon osd out
cat >ceph.conf <<CONF
[global]
fsid = $fsid
mon_host = [v2:127.0.0.1:3300/0]
ms_bind_msgr1 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
mon_allow_pool_size_one = true
osd_crush_chooseleaf_type = 0
run_dir = $PWD/out
admin_socket = $PWD/out/\$cluster-\$name.asok
log_file = $PWD/out/\$name.log
pid_file = $PWD/out/\$name.pid
mon_data = $PWD/mon
osd_data = $PWD/osd
osd_objectstore = memstore
memstore_device_bytes = 512M
mon_data_avail_crit = 1
mon_data_avail_warn = 2
mon_cluster_log_file = $PWD/out/cluster.log
crash_dir = $PWD/out
CONF
export CEPH_CONF=$PWD/ceph.conf
monmaptool --create --fsid "$fsid" --addv a '[v2:127.0.0.1:3300/0]' monmap >out/log
ceph-mon -i a --mkfs --monmap monmap >>out/log 2>&1
ceph-mon -f -i a >>out/log 2>&1 &
timeout 60 ceph osd new "$osd" 0 >>out/log 2>&1
ceph-osd -i 0 --mkfs --osd-uuid "$osd" >>out/log 2>&1
ceph-osd -f -i 0 >>out/log 2>&1 &
timeout 60 ceph osd pool create rbd 4 >>out/log 2>&1
timeout 60 rbd pool init rbd >>out/log 2>&1
timeout 60 rbd create --size 64M rbd/disk >>out/log 2>&1
echo ready
cat
kill %1 %2
wait
