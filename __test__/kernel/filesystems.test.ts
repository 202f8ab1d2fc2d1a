// processors: 1 and 2
import { leaveNothingBehind } from '../support/devices.js'
import { onTwo, test } from '../support/processors.js'
import { sh } from '../support/program.js'
import { Server } from '../support/server.js'

leaveNothingBehind(test)

// A source tree that is there wherever the tests are: about a thousand files.
const TREE = ['@types', '@octokit', '@inquirer', 'ava', 'commander', 'typescript']
  .map(name => `node_modules/${name}`)
  .join(' ')

test.before('pack a source tree and note its checksums', async () => {
  await sh(`mkdir -p /tmp/fs/mnt; tar -cf /tmp/fs/tree.tar ${TREE}; mkdir /tmp/fs/tree
    tar -xf /tmp/fs/tree.tar -C /tmp/fs/tree; cd /tmp/fs/tree; find . -type f -exec sha256sum {} + >/tmp/fs/sums; rm -r /tmp/fs/tree`)
})

test.after.always(() => sh('rm -rf /tmp/fs'))

const kinds = [
  { fs: 'ext4', size: '256M', mkfs: 'mkfs.ext4 -q', fsck: 'e2fsck -fn' },
  { fs: 'xfs', size: '512M', mkfs: 'mkfs.xfs -q', fsck: 'xfs_repair -n' },
]
const backends = [
  { backend: 'memory', words: (size: string) => `--mem ${size} --queues 2` },
  { backend: 'a file', words: () => '--file /tmp/fs/disk.img' },
]
for (const { fs, size, mkfs, fsck } of kinds) {
  for (const { backend, words } of backends) {
    ;(backend === 'memory' ? onTwo : test)(
      `${fs} in ${backend} holds a source tree, trims, and is clean afterwards`,
      async t => {
        await sh(`rm -f /tmp/fs/disk.img; truncate -s ${size} /tmp/fs/disk.img`)
        await Server.with(words(size), async ({ path }) => {
          await sh(
            `${mkfs} "$1"; mount -t ${fs} "$1" /tmp/fs/mnt; tar -xf /tmp/fs/tree.tar -C /tmp/fs/mnt; umount /tmp/fs/mnt`,
            path,
          )
          await sh('mount "$1" /tmp/fs/mnt; cd /tmp/fs/mnt; sha256sum --quiet -c /tmp/fs/sums', path)
          const trimmed = await sh('rm -r /tmp/fs/mnt/node_modules/@types; sync; fstrim -v /tmp/fs/mnt')
          t.regex(trimmed, /bytes\) trimmed/)
          t.notRegex(trimmed, /\(0 bytes\)/)
          await sh(`umount /tmp/fs/mnt; ${fsck} "$1"`, path)
          await sh(
            'mount "$1" /tmp/fs/mnt; cd /tmp/fs/mnt; grep -v "/@types/" /tmp/fs/sums | sha256sum --quiet -c; cd /; umount /tmp/fs/mnt',
            path,
          )
        })
      },
    )
  }
}
