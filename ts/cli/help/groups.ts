/** How the help of commands with many options is arranged, and what of it is shown without `--all`. */

/** The options in groups; those of other names are in the last one. */
export const GROUPS: readonly (readonly [heading: string, names: readonly string[]])[] = [
  [
    'What stores the data:',
    [
      '--mem --mem-pages --null --file --direct --no-exclusive --offset --sizelimit --lazy --cache --cache-max --fill',
      '--fetch-timeout --qcow2 --backing --nbd --nbd-timeout --journal --image --format --key-file --rbd --ceph-user --ceph-conf',
      '--qemu --s3 --volume-size --from --at --retain --durable --worker --worker-options --concat --stripe --chunk --mirror --bitmap --overlay --snapshot',
      '--overlay-size --upper --track --backend',
    ],
  ],
  ['What goes wrong:', ['--fault --profile --seed']],
  [
    'The disk:',
    [
      '--id --name --read-only --block-size --physical-block-size --max-io --write-cache --rotational --no-discard',
      '--discard-granularity --max-discard --no-partition-scan',
    ],
  ],
  [
    'Speed:',
    [
      '--queues --depth --threads --threads-per-queue --no-affinity --poll --transport --copy --share --buffers',
      '--request-timeout --stuck-timeout',
    ],
  ],
  [
    'The server:',
    [
      '--recovery --detach --auto-restart --or-recover --timeout --log-file --log-level --json --mlock --trace',
    ],
  ],
]

/** What the short help of a command has, if it cannot have everything: its options, or commands of its own. */
export const COMMON: Readonly<Record<string, string>> = {
  'ublk-ts':
    'create run list show resize snapshot reset fault recover upgrade stop delete logs stats top trace metrics features ' +
    'doctor completion',
  'ublk-ts create':
    '--mem --file --lazy --qcow2 --nbd --image --s3 --worker --overlay --fault --id --name --read-only --queues --recovery --detach ' +
    '--auto-restart --json',
  'ublk-ts run':
    '--mem --file --lazy --qcow2 --worker --overlay --fault --profile --read-only --queues --mkfs --mkfs-options --mount',
  'ublk-ts crash states':
    '--budget --model --jobs --timeout --keep-going --shrink --bisect --junit --json --over --seed',
  'ublk-ts crash record': '--mem --file --qcow2 --nbd --log --unit --seed --id --name --read-only --json',
}
