// processors: 2
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import test, { type ExecutionContext } from 'ava'
import { UblkDevice, worker } from 'ublk-ts'
import type { Options } from '../backends/mortal.js'
import { leaveNothingBehind } from '../support/devices.js'
import { result, sh } from '../support/program.js'
import { until } from '../support/server.js'

leaveNothingBehind(test)

const DIR = '/tmp/databases'
const MODULE = new URL('../backends/mortal.js', import.meta.url)
const DEATHS = 10

test.before(() => sh(`mkdir -p ${DIR}/mnt`))
test.after.always(() => sh(`umount -q ${DIR}/mnt || true; rm -rf --one-file-system ${DIR}`))

/** A disk whose server dies when asked, and is replaced. */
async function mortalDisk(mebibytes: number): Promise<{ disk: UblkDevice; die: () => Promise<void> }> {
  const options: Options = {
    bytes: new SharedArrayBuffer(mebibytes * 2 ** 20),
    told: new SharedArrayBuffer(4),
  }
  const disk = await UblkDevice.create({
    backend: worker(MODULE, options),
    queues: 2,
    recovery: 'reissue',
  })
  disk.on('error', () => {})
  const die = async (): Promise<void> => {
    const recovered = new Promise<void>(resolve => disk.once('recovered', () => resolve()))
    Atomics.store(new Int32Array(options.told), 0, 1)
    await recovered
  }
  return { disk, die }
}

/** A program that does one transaction after the other on a database of its own, with SQLite's default of full safety. */
class Writer {
  /** How many SQLite has said are committed. */
  committed = 0
  readonly #file: string
  #ended: Promise<void> = Promise.resolve()
  #stopping = false

  /** @param journal - The mode of the database's journal. */
  constructor(readonly journal: string) {
    this.#file = `${DIR}/mnt/${journal}.db`
  }

  /** Money is to go round between a hundred accounts. */
  async start(): Promise<void> {
    await sh(
      `sqlite3 "$1" "PRAGMA journal_mode = $2; CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
        CREATE TABLE ledger (number INTEGER PRIMARY KEY, note BLOB);
        WITH RECURSIVE n(id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM n WHERE id < 99) INSERT INTO account SELECT id, 1000 FROM n"`,
      this.#file,
      this.journal,
    )
    this.#ended = this.#run()
    this.#ended.catch(() => {}) // Told to whoever stops it.
  }

  async stop(): Promise<void> {
    this.#stopping = true
    await this.#ended
  }

  /** The database's own check; that no money was lost; and that there are all transactions, each whole. */
  async check(t: ExecutionContext): Promise<void> {
    const question = `PRAGMA integrity_check; SELECT sum(balance) FROM account;
      SELECT count(*), max(number), sum(length(note) = 1 + number * 997 % 9000) FROM ledger`
    const count = this.committed
    t.is(await sh('sqlite3 "$1" "$2"', this.#file, question), `ok\n100000\n${count}|${count}|${count}\n`)
  }

  async #run(): Promise<void> {
    // SQLite's shell would keep its answers back.
    const child = spawn('stdbuf', ['-oL', 'sqlite3', '-bail', this.#file])
    const ended = result(child)
    const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    while (!this.#stopping) {
      const i = this.committed + 1
      child.stdin.write(`BEGIN; UPDATE account SET balance = balance - ${i % 7} WHERE id = ${(i * 31) % 100};
        UPDATE account SET balance = balance + ${i % 7} WHERE id = ${(i * 17) % 100};
        INSERT INTO ledger VALUES (${i}, randomblob(${1 + ((i * 997) % 9000)})); COMMIT; SELECT ${i};\n`)
      if ((await answers.next()).value !== `${i}`) break
      this.committed = i
    }
    child.stdin.end()
    const { status, stderr } = await ended
    if (status !== 0 || !this.#stopping) throw new Error(`sqlite3: status ${status}: ${stderr}`)
  }
}

test("SQLite keeps every transaction while its disk's server dies again and again", async t => {
  const { disk, die } = await mortalDisk(256)
  await using _ = disk
  await sh(`mkfs.ext4 -q "$1"; mount "$1" ${DIR}/mnt`, disk.path)
  const writers = [new Writer('WAL'), new Writer('DELETE')]
  const committed = (): number => Math.min(...writers.map(writer => writer.committed))
  for (const writer of writers) await writer.start()
  for (let death = 1; death <= DEATHS; death++) {
    await until(() => committed() >= death * 5, 'transactions are committed')
    await die()
  }
  for (const writer of writers) await writer.stop()

  for (const writer of writers) await writer.check(t)
  // Once more, from the disk.
  await sh(`umount ${DIR}/mnt; fsck.ext4 -fn "$1"; mount "$1" ${DIR}/mnt`, disk.path)
  for (const writer of writers) await writer.check(t)
  await sh(`umount ${DIR}/mnt`)
})
