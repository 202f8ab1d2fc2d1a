import { run } from './run.js'

// What main.cts loads first.
void run(process.argv).then(status => process.exit(status))
