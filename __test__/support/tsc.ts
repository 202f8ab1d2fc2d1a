import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const TSC = fileURLToPath(new URL('../../node_modules/.bin/tsc', import.meta.url))

/** How programs that stand alone are compiled, whatever is configured where they are. */
const ALONE = [
  ...['--target', 'es2023', '--lib', 'es2023,esnext.disposable', '--module', 'nodenext', '--types', 'node'],
  ...['--strict', '--ignoreConfig', '--skipLibCheck'],
]

/**
 * Compiles programs that stand alone, each beside itself, and resolves with what the compiler says: nothing, if all is well.
 *
 * @param options - Further options of the compiler, such as `--noCheck`.
 */
export async function compile(
  dir: string,
  programs: readonly string[],
  options: readonly string[] = [],
): Promise<string> {
  return await said([...ALONE, ...options, ...programs], dir)
}

/** What the compiler says of a project; paths are relative to `cwd`. */
export async function checkProject(project: string, cwd: string): Promise<string> {
  return await said(['-p', project, '--pretty', 'false'], cwd)
}

async function said(args: readonly string[], cwd: string): Promise<string> {
  const ran = promisify(execFile)(TSC, args, { cwd, maxBuffer: 2 ** 24 })
  const { stdout } = await ran.catch((error: { stdout?: string }) => {
    if (error.stdout) return { stdout: error.stdout }
    throw error // It could not be run.
  })
  return stdout
}
