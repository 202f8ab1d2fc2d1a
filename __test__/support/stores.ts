import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, mkdtempSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { sh } from './program.js'
import { until } from './server.js'

// Servers that disks of the examples are in. Each ends with its test.

/** A server that runs until it is killed. */
class Store implements AsyncDisposable {
  protected constructor(protected readonly child: ChildProcess) {}

  signal(name: NodeJS.Signals): void {
    this.child.kill(name)
  }

  /** Ends it as a crash would. */
  async kill(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return
    this.child.kill('SIGKILL')
    await once(this.child, 'exit')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill()
  }
}

const VERSIONS = '/usr/lib/postgresql'

/** PostgreSQL, with a database at a Unix socket. */
export class Postgresql extends Store {
  private constructor(
    child: ChildProcess,
    /** Where it has its data and its socket. */
    readonly dir: string,
  ) {
    super(child)
  }

  /** Makes a database in a new directory below `dir`. */
  static async init(dir: string): Promise<string> {
    mkdirSync(dir, { recursive: true })
    const data = mkdtempSync(join(dir, 'postgresql-'))
    await sh('chown postgres "$1"', data)
    await sh(
      `${AS_POSTGRES} "$2/initdb" -D "$1/data" -A trust --no-sync --no-locale >/dev/null`,
      data,
      programs(),
    )
    chmodSync(data, 0o755)
    return data
  }

  /** Starts it and waits until it answers. */
  static async start(dir: string): Promise<Postgresql> {
    const words = ['-D', `${dir}/data`, '-k', dir, '-c', 'listen_addresses=', '-c', 'autovacuum=off']
    const user = AS_POSTGRES.split(' ')
    const child = spawn(user[0] ?? '', [...user.slice(1), `${programs()}/postgres`, ...words], {
      stdio: 'ignore',
    })
    const server = new Postgresql(child, dir)
    await until(async () => (await server.ask('SELECT 1').catch(() => '')) === '1\n', 'PostgreSQL answers')
    return server
  }

  get url(): string {
    return `postgresql://postgres@/postgres?host=${this.dir}`
  }

  /** What it answers. */
  async ask(query: string): Promise<string> {
    return await sh('psql -h "$1" -U postgres -XAtqc "$2" postgres', this.dir, query)
  }

  /** Ends all of its processes as a crash would. */
  override async kill(): Promise<void> {
    await sh('pkill -KILL -P "$1" || true', `${this.child.pid}`)
    await super.kill()
  }
}

const AS_POSTGRES = 'setpriv --reuid postgres --regid postgres --clear-groups --'

function programs(): string {
  const [version] = readdirSync(VERSIONS)
  return `${VERSIONS}/${version}/bin`
}

/** etcd alone, on loopback. */
export class Etcd extends Store {
  static readonly url = 'http://127.0.0.1:23790'

  static async start(dir: string): Promise<Etcd> {
    mkdirSync(dir, { recursive: true })
    const peer = 'http://127.0.0.1:23800'
    const words = `--data-dir ${mkdtempSync(join(dir, 'etcd-'))} --listen-client-urls ${Etcd.url} --advertise-client-urls ${Etcd.url}
      --listen-peer-urls ${peer} --initial-advertise-peer-urls ${peer} --initial-cluster default=${peer} --log-level error`
    const etcd = new Etcd(spawn('etcd', words.split(/\s+/), { stdio: 'ignore' }))
    const answers = async (): Promise<boolean> =>
      await fetch(`${Etcd.url}/health`).then(
        ({ ok }) => ok,
        () => false,
      )
    await until(answers, 'etcd answers')
    return etcd
  }
}
