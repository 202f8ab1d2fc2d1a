/**
 * On SIGUSR1, which is often sent to have logs reopened, Node opens a debugger to every user of the machine. With a
 * listener it does not. Workers receive no signals.
 */
process.on('SIGUSR1', () => {})
