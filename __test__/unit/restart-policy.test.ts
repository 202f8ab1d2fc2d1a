import test from 'ava'
import { cliWords } from '../../dist/cli/remedies.js'
import { MemoryLimit } from '../../dist/daemon/memory-limit.js'
import { RestartPolicy } from '../../dist/daemon/restart-policy.js'
import { hintOf } from '../../dist/errors.js'

const MIB = 2 ** 20

/** The memory of a control group, in which the kernel has killed as often as `kills` says. */
class Group extends MemoryLimit {
  kills = 0
  #asked = 0
  bytes = 160 * MIB

  override get limit(): number {
    return this.bytes
  }

  override hasKilled(): boolean {
    const more = this.kills > this.#asked
    this.#asked = this.kills
    return more
  }
}

function policy(): {
  add: RestartPolicy['add']
  killed: RestartPolicy['add']
  group: Group
  pass: (s: number) => void
} {
  const group = new Group()
  let now = 0
  const policy = new RestartPolicy(7, group, () => now)
  const add: RestartPolicy['add'] = (how, served) => policy.add(how, served)
  return {
    add,
    killed: (how, served) => {
      group.kills++
      return add(how, served)
    },
    group,
    pass: seconds => {
      now += seconds * 1000
    },
  }
}

const SERVED = { cameUp: true }
const NEVER = { cameUp: false }
const HOPELESS = 'device 7 has no server: 2 were killed for want of memory; its control group may have 160M'
const HINT =
  'raise the limit (MemoryMax= of a service, --memory of a container), and then ublk-ts recover 7; or delete it'

test('the second server that is killed for want of memory is the last, whether or not it came up', t => {
  for (const second of [SERVED, NEVER]) {
    const { killed } = policy()
    const { why, short, hopeless } = killed('SIGKILL', SERVED)
    t.is(why, 'SIGKILL, for want of memory: its control group may have 160M')
    t.true(short)
    t.is(hopeless, undefined)
    const last = killed('SIGKILL', second).hopeless
    t.like(last, { kind: 'limit', message: HOPELESS, device: 7 })
    t.is(last && hintOf(last, cliWords), HINT)
  }
})

test('a server that had to be killed because it did not come up lacked memory if the one before it did', t => {
  const { add, killed } = policy()
  t.is(killed('SIGKILL', SERVED).hopeless, undefined)
  t.is(add('SIGKILL', NEVER).hopeless?.message, HOPELESS)
})

test('other ends are not for want of memory, and do not make the next one so', t => {
  const { add, killed } = policy()
  t.is(add('SIGKILL', SERVED).why, 'SIGKILL')
  t.is(add('SIGKILL', NEVER).why, 'SIGKILL')
  t.is(killed('status 1', NEVER).why, 'status 1', 'another process of the group was killed')
  killed('SIGKILL', SERVED)
  t.false(add('status 1', NEVER).short)
  t.false(add('SIGKILL', NEVER).short)
})

test('kills count together only within ten minutes and at one limit', t => {
  const { killed, group, pass } = policy()
  killed('SIGKILL', SERVED)
  pass(601)
  t.is(killed('SIGKILL', SERVED).hopeless, undefined)
  pass(61)
  group.bytes = 320 * MIB
  t.is(killed('SIGKILL', SERVED).hopeless, undefined)
  pass(61)
  t.is(killed('SIGKILL', SERVED).hopeless?.kind, 'limit')
})

test('the sixth end within a minute is the last, and each pause is twice the one before', t => {
  const { add, pass } = policy()
  const pauses = Array.from({ length: 5 }, (_, end) => {
    pass(1)
    const { pause, hopeless } = add('SIGSEGV', end % 2 === 0 ? SERVED : NEVER)
    t.is(hopeless, undefined)
    return pause
  })
  t.deepEqual(pauses, [100, 200, 400, 800, 1600])
  t.is(add('SIGSEGV', SERVED).hopeless?.message, 'device 7 has no server: 6 died within a minute')
  pass(61)
  t.is(add('SIGSEGV', SERVED).pause, 100)
})
