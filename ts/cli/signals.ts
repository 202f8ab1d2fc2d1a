/**
 * Signals with which Node itself would do something that a server must not: at SIGUSR1, a usual "reopen your logs", it opens
 * a debugger for every user of the machine. Heard, it does nothing. Workers have no say in signals.
 */
process.on('SIGUSR1', () => {})
