import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { ExecutionContext } from 'ava'
import { result, sh } from './program.js'

/** A program that does one transaction after the other on a database of its own, with SQLite's default of full safety. */
export class SqliteWriter {
  /** How many SQLite has said are committed. */
  committed = 0
  readonly #file: string
  #ended: Promise<void> = Promise.resolve()
  #stopping = false

  /**
   * @param dir - Where the database is.
   * @param journal - The mode of its journal.
   */
  constructor(
    dir: string,
    readonly journal: string,
  ) {
    this.#file = `${dir}/${journal}.db`
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
