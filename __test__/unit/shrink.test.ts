import test from 'ava'
import { fewest } from '../../dist/shrink.js'

const range = (count: number): number[] => Array.from({ length: count }, (_, at) => at)

test('finds the elements that a set needs to fail', async t => {
  for (const needed of [[0], [99], [3, 4], [0, 50, 99], [10, 20, 30, 40, 50]]) {
    const fails = async (some: readonly number[]): Promise<boolean> =>
      needed.every(each => some.includes(each))
    t.deepEqual(await fewest(range(100), fails), needed)
  }
})

test('keeps everything if all is needed, and one element if any is enough', async t => {
  t.deepEqual(await fewest(range(9), async some => some.length === 9), range(9))
  t.is((await fewest(range(9), async () => true)).length, 1)
})

test('makes a subset only when it is tried', async t => {
  let made = 0
  class Counted extends Array<number> {
    override slice(from?: number, to?: number): number[] {
      made++
      return super.slice(from, to)
    }
  }
  let most = 0
  let tried = 0
  await fewest(Counted.from(range(100)), async () => {
    most = Math.max(most, made)
    made = 0
    tried++
    return false
  })
  t.true(tried > 200)
  // What is left without a part is what is before it and what is behind it.
  t.is(most, 2)
})
