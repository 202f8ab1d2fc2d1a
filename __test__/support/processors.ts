import ava, { type TestFn } from 'ava'

// A machine with two processors runs alone, while those with one run side by side. So a file with tests of both kinds runs
// twice (scripts/test-kernel): with the tests that one processor is enough for, and with those that take two.

/** Which of its tests the file is to run: `one` or `two`, or all. */
const part = process.env['UBLK_TS_PART']

const ignored = Object.assign(() => {}, ava, { serial: () => {}, skip: () => {} }) as unknown as TestFn

/** Makes a test that one processor is enough for, in a file that says `// processors: 1 and 2`. */
export const test: TestFn = part === 'two' ? ignored : ava

/** Makes one that takes two, since the driver gives a device no more queues than there are processors. */
export const onTwo: TestFn = part === 'one' ? ignored : ava
